"""Rows that are refused with the field that names them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from service.api.openapi.examples import INLINE
from service.contract.errors import (
    InvalidData,
    TaskslimError,
    UnknownLabel,
)
from service.contract.request.job_request import JobRequest
from service.planning.admission import check_request
from service.planning.data_checks import MAX_READ_BYTES
from service.rows.row import Row
from service.sources.access import Access
from service.storage.draws import draw
from service.storage.keys import dataset_key
from tests.support.job_requests import request_body
from tests.support.planning import refuse


def task(calibration: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"preset": "sst2", "calibration": calibration} | fields


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        ({"text": "x", "label": "neutral"}, UnknownLabel, "row 2 has the label 'neutral'"),
        ({"text": "x"}, InvalidData, "row 2 has no value in the column 'label'"),
        ({"label": "positive"}, InvalidData, "row 2 has no value in the column 'text'"),
        ({"text": None, "label": "positive"}, InvalidData, "row 2 has no value in the column 'text'"),
        ({"text": math.nan, "label": "positive"}, InvalidData, "row 2 has no value in the column 'text'"),
        ({"text": ["x"], "label": "positive"}, InvalidData, "row 2: the column 'text', which the task uses"),
        ({"text": "x", "label": ["positive"]}, InvalidData, "row 2: the column 'label', which the task uses"),
        ({"text": "\ud800", "label": "positive"}, InvalidData, "row 2 holds a character"),
    ],
)
def test_an_incomplete_row_is_named(
    tmp_path: Path, access: Access, row: dict[str, Any], error: type[TaskslimError], says: str
) -> None:
    rows = [{"text": "fine", "label": "positive"}, row]
    body = request_body(tmp_path, task=task({"rows": rows}))
    assert says in refuse(body, access, error, "task.calibration.rows")


def test_an_inline_row_that_takes_too_many_bytes_as_a_line_is_refused(tmp_path: Path, access: Access) -> None:
    rows = [{"text": "fine", "label": "positive"}, {"text": "x" * 2**20, "label": "positive"}]
    body = request_body(tmp_path, task=task({"rows": rows}))
    message = refuse(body, access, InvalidData, "task.calibration.rows")
    assert message == "row 2 takes more than 1048576 bytes as a line of JSON Lines: shorten it"


def test_generation_rows_need_a_target(tmp_path: Path, access: Access) -> None:
    task = {"kind": "generation", "template": "{text}", "calibration": {"rows": [{"text": "x"}]}}
    message = refuse(request_body(tmp_path, task=task), access, InvalidData, "task.calibration.rows")
    assert "'target'" in message


@pytest.mark.parametrize("name", ["missing.jsonl", "rows.txt", "directory.jsonl"])
def test_a_uri_that_is_no_file_of_rows_is_refused(tmp_path: Path, access: Access, name: str) -> None:
    (tmp_path / "rows.txt").touch()
    (tmp_path / "directory.jsonl").mkdir()
    body = request_body(tmp_path, task=task({"uri": (tmp_path / name).as_uri()}))
    refuse(body, access, InvalidData, "task.calibration.uri")


@pytest.mark.parametrize("uri", ["dataset://nothing", "dataset://../../x", "dataset://", "hf://data/set.jsonl"])
def test_a_data_set_that_does_not_exist_is_refused(tmp_path: Path, access: Access, uri: str) -> None:
    body = request_body(tmp_path, task=task({"uri": uri}))
    refuse(body, access, InvalidData, "task.calibration.uri")


def stored(access: Access, *rows: dict[str, Any]) -> dict[str, str]:
    """A data set of these rows, as a source that names it."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    access.storage.put_bytes(lines.encode(), dataset_key(access.tenant, "one"))
    return {"uri": "dataset://one"}


FINE = {"text": "fine", "label": "positive"}


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        (FINE | {"label": "neutral"}, UnknownLabel, "line 2 has the label 'neutral'"),
        ({"text": "x"}, InvalidData, "line 2 has no value in the column 'label'"),
        (FINE | {"text": []}, InvalidData, "line 2: the column 'text', which the task uses"),
    ],
)
def test_the_rows_of_a_data_set_are_checked_as_inline_rows_are(
    tmp_path: Path, access: Access, row: dict[str, Any], error: type[TaskslimError], says: str
) -> None:
    body = request_body(tmp_path, task=task(stored(access, FINE, row)))
    assert says in refuse(body, access, error, "task.calibration.uri")


def test_only_the_drawn_rows_of_a_data_set_are_checked(tmp_path: Path, access: Access) -> None:
    source = stored(access, *[FINE] * 3, {"text": "x"})
    numbered = [Row({}, number) for number in range(4)]
    seeds = {numbered[3] in draw(numbered, 3, seed): seed for seed in range(20)}  # whether the wrong row is drawn
    fine, wrong = (
        request_body(tmp_path, task=task(source | {"limit": 3, "seed": seeds[has]})) for has in (False, True)
    )
    check_request(JobRequest.model_validate(fine), access)
    refuse(wrong, access, InvalidData, "task.calibration.uri")


def test_a_large_data_set_is_left_to_the_worker(tmp_path: Path, access: Access) -> None:
    body = request_body(tmp_path, task=task(stored(access, {"text": "x" * MAX_READ_BYTES})))
    check_request(JobRequest.model_validate(body), access)


TASK: dict[str, Any] = INLINE["task"]


UNSUPERVISED = TASK | {"supervision": "none"}


def test_calibration_rows_need_no_labels_without_supervision(tmp_path: Path, access: Access) -> None:
    rows = {"rows": [{"text": "I was charged twice."}, {"text": "Where is it?"}]}
    body = request_body(tmp_path, task=UNSUPERVISED | {"calibration": rows, "evaluations": {"plain": rows}})
    check_request(JobRequest.model_validate(body), access)
    body = request_body(tmp_path, task=TASK | {"calibration": rows})
    assert refuse(body, access, InvalidData, "task.calibration.rows") == "row 1 has no value in the column 'label'"


def test_rows_of_a_named_evaluation_set_are_checked(tmp_path: Path, access: Access) -> None:
    rows = {"rows": [{"text": "Where is it?", "label": "weather"}]}
    body = request_body(tmp_path, task=TASK | {"evaluations": {"other": rows}})
    assert "weather" in refuse(body, access, UnknownLabel, "task.evaluations.other.rows")
    some = {"rows": [{"text": "Where is it?", "label": "delivery"}, {"text": "It came."}]}
    body = request_body(tmp_path, task=UNSUPERVISED | {"evaluations": {"other": some}})
    assert "row 2" in refuse(body, access, InvalidData, "task.evaluations.other.rows")
