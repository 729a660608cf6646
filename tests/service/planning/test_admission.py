"""Requests that are refused before anything is queued, with the field to change."""

from pathlib import Path
from typing import Any

from service.api.openapi.examples import INLINE
from service.contract.errors import (
    ForbiddenPath,
    InvalidData,
    InvalidRequest,
    UnknownLabel,
    UnknownPreset,
    UnsupportedUnit,
)
from service.contract.request.job_request import JobRequest
from service.planning.admission import check_request
from service.sources.access import Access
from tests.support.job_requests import FILMS, MOOD, WRITING, request_body, several
from tests.support.planning import refuse


def test_a_sound_request_is_accepted(tmp_path: Path, access: Access) -> None:
    assert check_request(JobRequest.model_validate(request_body(tmp_path)), access).family.model_type == "llama"


def test_a_hub_model_is_not_looked_at(access: Access) -> None:
    assert check_request(JobRequest.model_validate(INLINE | {"model": {"uri": "hf://owner/name"}}), access).is_on_hub


def test_local_paths_can_be_forbidden(tmp_path: Path, access: Access) -> None:
    closed = Access(access.storage, "default", local_paths=False, roots=())
    refuse(request_body(tmp_path), closed, ForbiddenPath, "model.uri")
    body = INLINE | {"model": {"uri": "hf://owner/name"}, "task": task({"uri": "file:///rows.jsonl"})}
    refuse(body, closed, ForbiddenPath, "task.calibration.uri")


def task(calibration: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"preset": "sst2", "calibration": calibration} | fields


def test_an_error_of_an_observed_task_names_its_field(tmp_path: Path, access: Access) -> None:
    good = {"preset": "sst2", "evaluation": {"rows": [{"text": "x", "label": "positive"}]}}
    for bad, error, param in (
        ({"preset": "nothing"}, UnknownPreset, "observe.1.preset"),
        ({"preset": "trec"}, UnknownLabel, "observe.1.evaluation.rows"),
        ({"preset": "imdb", "evaluation": {"uri": "file:///nothing.jsonl"}}, InvalidData, "observe.1.evaluation.uri"),
    ):
        refuse(request_body(tmp_path, observe=[good, good | bad]), access, error, param)


def test_an_error_of_one_of_several_tasks_names_its_field(tmp_path: Path, access: Access) -> None:
    check_request(JobRequest.model_validate(several(tmp_path, MOOD, FILMS)), access)
    refuse(several(tmp_path, MOOD, FILMS | {"preset": "no"}), access, UnknownPreset, "tasks.1.preset")
    refuse(several(tmp_path, MOOD | {"preset": "trec"}, FILMS), access, UnknownLabel, "tasks.0.calibration.rows")
    missing = FILMS | {"evaluation": {"uri": "file:///nothing.jsonl"}}
    refuse(several(tmp_path, MOOD, missing), access, InvalidData, "tasks.1.evaluation.uri")


def test_tasks_of_two_kinds_are_not_united(tmp_path: Path, access: Access) -> None:
    assert "cannot be united" in refuse(several(tmp_path, MOOD, WRITING), access, InvalidRequest, "tasks")


def test_the_objective_margin_needs_labels(tmp_path: Path, access: Access) -> None:
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x", "target": "y"}]}}
    body = request_body(tmp_path, task=task, method={"objective": "margin"})
    refuse(body, access, InvalidRequest, "method.objective")


def test_a_criterion_without_a_formula_for_the_unit_is_refused(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, method={"criterion": "wanda", "units": ["ffn", "layers"], "scope": "global"})
    refuse(body, access, UnsupportedUnit, "method.units")
