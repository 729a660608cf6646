"""Requests whose fields contradict each other are refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.api.openapi.examples import INLINE
from service.contract.request.job_request import JobRequest
from tests.support.job_requests import FILMS, MOOD, UNION_ROWS, several


def test_two_observed_tasks_need_different_names() -> None:
    observed = {"preset": "sst2", "evaluation": {"uri": "file:///rows.jsonl"}}
    with pytest.raises(ValidationError, match="give each a different `name`"):
        JobRequest.model_validate(INLINE | {"observe": [observed, observed]})
    JobRequest.model_validate(INLINE | {"observe": [observed, observed | {"name": "another"}]})


@pytest.mark.parametrize(
    ("tasks", "fields", "says"),
    [
        ((MOOD,), {}, "at least two"),
        ((), {}, "at least two"),
        ((MOOD, FILMS), {"task": MOOD}, "at least two"),
        ((MOOD, MOOD), {}, "give each a different `name`"),
        ((MOOD, FILMS), {"target": {"keep_metric": 0.9}}, "need a single task"),
        ((MOOD, FILMS), {"target": {"sweep": [0.1, 0.2]}}, "need a single task"),
        ((MOOD, FILMS), {"method": {"steps": 3}}, "`method.steps` must be 1"),
        ((MOOD, FILMS | {"supervision": "none"}), {}, "takes neither"),
        ((MOOD, FILMS | {"evaluations": {"other": UNION_ROWS}}), {}, "takes neither"),
    ],
)
def test_tasks_that_cannot_be_united_are_refused(
    tmp_path: Path, tasks: tuple[dict[str, Any], ...], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        JobRequest.model_validate(several(tmp_path, *tasks) | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence": 0.5}, "supervision: none"),
        ({"supervision": "none", "calibration": {"uri": "file:///a.jsonl", "draw": "balanced"}}, "no labels"),
        ({"kind": "generation", "evaluation": {"uri": "file:///a.jsonl", "draw": "balanced"}}, "no single label"),
        ({"evaluations": {"../up": {"uri": "file:///a.jsonl"}}}, "pattern"),
    ],
)
def test_contradicting_fields_of_a_task_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobRequest.model_validate(INLINE | {"task": INLINE["task"] | fields})


@pytest.mark.parametrize(
    ("method", "criterion"),
    [
        ({}, "surgeon"),
        ({"repair": "least_squares"}, "surgeon"),
        ({"repair": "none"}, "attribution"),
        ({"repair": "bias"}, "attribution"),
        ({"repair": "none", "criterion": "surgeon"}, "surgeon"),
        ({"criterion": "wanda"}, "wanda"),
    ],
)
def test_the_default_criterion_depends_on_the_repair(method: dict[str, Any], criterion: str) -> None:
    assert JobRequest.model_validate(INLINE | {"method": method}).method.criterion == criterion


@pytest.mark.parametrize("units", [["ffn", "layers"], ["heads", "head_dims"]])
def test_units_within_each_other_need_the_global_scope(units: list[str]) -> None:
    with pytest.raises(ValidationError, match="scope: global"):
        JobRequest.model_validate(INLINE | {"method": {"units": units}})
    JobRequest.model_validate(INLINE | {"method": {"units": units, "scope": "global"}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": {"repair": "none"}, "output": {"formats": ["safetensors", "indices"]}}, "`recovery` trains"),
        ({"target": {"sweep": [0.1, 0.2]}}, "give another target with `recovery`"),
        ({"deadline_seconds": 300}, "less than `deadline_seconds`"),
        ({"recovery": {"method": "lora", "label_weight": 0.5}}, "only with the method `distillation`"),
        ({"recovery": {"rows": 15}}, "greater than or equal to 16"),
        ({"recovery": {"rank": 0}}, "greater than or equal to 1"),
    ],
)
def test_recoveries_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobRequest.model_validate(INLINE | {"recovery": {}} | fields)
    JobRequest.model_validate(INLINE | {"recovery": {}})


def test_the_format_indices_is_refused_with_a_repair() -> None:
    fields = {"output": {"formats": ["indices"]}, "method": {"repair": "least_squares"}}
    with pytest.raises(ValidationError, match="formats: indices"):
        JobRequest.model_validate(INLINE | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": {"shards": 2, "steps": 3, "scope": "global"}}, "leave one out"),
        ({"method": {"shards": 2, "criterion": "selectivity"}}, "leave `shards` out"),
        ({"method": {"shards": 2, "general_weight": 0.2}}, "leave `shards` out"),
        ({"method": {"shards": 2}, "task": INLINE["task"] | {"supervision": "none"}}, "leave `method.shards` out"),
        ({"method": {"shards": 2}, "task": INLINE["task"] | {"synthesis": {"rows": 8}}}, "leave `method.shards` out"),
        (
            {
                "method": {"shards": 2},
                "task": INLINE["task"] | {"general": {"rows": [{"text": "a b"}]}},
                "target": {"ratio": 0.5, "general_weights": [0, 0.5]},
            },
            "leave `method.shards` out",
        ),
        ({"method": {"shards": 0}}, "greater than or equal to 1"),
        ({"method": {"shards": 65}}, "less than or equal to 64"),
    ],
)
def test_shards_that_cannot_measure_alone_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobRequest.model_validate(INLINE | fields)
