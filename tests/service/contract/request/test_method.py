"""Targets that a request can have, and combinations that are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.errors import InvalidRequest
from service.contract.options import Objective, TaskKind
from service.contract.request.method import OBJECTIVES, Method, objective_of
from service.contract.request.target import LatencyBound, Target


@pytest.mark.parametrize(
    "target",
    [
        {"ratio": 0.3},
        {"parameters": 10**8},
        {"bytes": 10**8},
        {"latency_ms": 40},
        {"latency_ms": {"value": 40, "batch": 8, "tokens": 128}},
        {"keep_metric": 0.98},
        {"keep_metric": 0.98, "parameters": 10**8},
        {"keep_metric": 0.98, "bytes": 10**8},
        {"keep_metric": 1, "latency_ms": 12.5},
        {"sweep": [0.1, 0.3]},
        {"sweep": [0.1, 0.3], "artifacts": [0.3]},
    ],
    ids=str,
)
def test_a_valid_target_is_accepted(target: dict[str, Any]) -> None:
    kept = Target.model_validate(target).model_dump(exclude_unset=True, exclude_defaults=True)
    assert kept.keys() == target.keys()


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"ratio": 0.3, "keep_metric": 0.98},
        {"ratio": 0.3, "parameters": 10**8},
        {"parameters": 10**8, "bytes": 10**8},
        {"parameters": 10**8, "bytes": 10**8, "keep_metric": 0.9},
        {"sweep": [0.1], "keep_metric": 0.9},
        {"sweep": []},
        {"sweep": [0.1], "artifacts": [0.2]},
        {"ratio": 0.1, "artifacts": [0.1]},
        {"keep_metric": 0},
        {"keep_metric": 1.1},
        {"latency_ms": 0},
        {"latency_ms": {"batch": 2}},
        {"parameters": 1.5},
    ],
    ids=str,
)
def test_contradicting_fields_of_a_target_are_refused(target: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Target.model_validate(target)


@pytest.mark.parametrize("kind", TaskKind)
def test_each_kind_of_task_takes_its_objectives_alone(kind: TaskKind) -> None:
    assert objective_of(Method(), kind) is OBJECTIVES[kind][0]
    for objective in Objective:
        method = Method(objective=objective)
        if objective in OBJECTIVES[kind]:
            assert objective_of(method, kind) is objective
        else:
            with pytest.raises(InvalidRequest, match=f"a {kind} task does not have the objective"):
                objective_of(method, kind)


def test_a_latency_is_a_number_or_an_object() -> None:
    assert Target.model_validate({"latency_ms": 40}).latency_ms == LatencyBound(value=40, batch=1, tokens=64)
