"""Requests with too few inline rows, which the plan counts as the worker does."""

from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import InvalidData, InvalidRequest
from service.contract.request.job_request import JobRequest
from service.planning.admission import check_request
from service.sources.access import Access
from tests.support.job_requests import request_body
from tests.support.planning import refuse

ROWS = [{"text": "fine", "label": "positive"}, {"text": "dull", "label": "negative"}] * 2


def task(rows: list[dict[str, Any]], evaluation: list[dict[str, Any]] | None = None, **source: Any) -> dict[str, Any]:
    more = {} if evaluation is None else {"evaluation": {"rows": evaluation}}
    return {"preset": "sst2", "calibration": {"rows": rows} | source} | more


@pytest.mark.parametrize("asked", [task(ROWS[:3]), task(ROWS, limit=1), task(ROWS, limit=2, draw="balanced")])
def test_too_few_rows_to_set_some_aside_are_refused(tmp_path: Path, access: Access, asked: dict[str, Any]) -> None:
    says = refuse(request_body(tmp_path, task=asked), access, InvalidData, "task.evaluation")
    assert "at least two rows of every label" in says


def test_a_recovery_needs_sixteen_rows_beside_the_evaluation(tmp_path: Path, access: Access) -> None:
    def body(asked: dict[str, Any]) -> dict[str, Any]:
        return request_body(tmp_path, task=asked, recovery={})

    for few in (task(ROWS * 4), task(ROWS * 3, ROWS), task(ROWS * 9, ROWS, limit=15)):
        assert "needs 16 of them" in refuse(body(few), access, InvalidRequest, "task.calibration")
    for enough in (task(ROWS * 5), task(ROWS * 4, ROWS), task(ROWS * 9, ROWS, limit=16)):
        check_request(JobRequest.model_validate(body(enough)), access)


def test_a_floor_needs_two_evaluation_rows(tmp_path: Path, access: Access) -> None:
    floor = {"target": {"keep_metric": 0.9}}
    body = request_body(tmp_path, task=task(ROWS, ROWS[:1]), **floor)
    assert "two evaluation rows" in refuse(body, access, InvalidRequest, "task.evaluation")
    for enough in (task(ROWS), task(ROWS, ROWS[:2])):
        check_request(JobRequest.model_validate(request_body(tmp_path, task=enough, **floor)), access)
