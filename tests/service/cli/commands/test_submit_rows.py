"""The rows of `taskslim submit` with a real server: what is uploaded and named in the request."""

from pathlib import Path
from typing import Any

import pytest

from service.cli.client import Api, ApiUnavailable
from service.jobs.store import JobStore
from service.settings import Settings
from tests.support.cli_rows import only_job, uploads
from tests.support.command_line import Taskslim


def test_submit_names_the_uploaded_rows_in_place_of_its_own(
    taskslim: Taskslim, request_file: Path, server: tuple[str, Settings], job_store: JobStore
) -> None:
    run = taskslim("submit", request_file, "--calibration", "rows.csv", "--evaluation", "held-out.jsonl")
    assert run.code == 0, run.err
    held_out, rows = uploads(server)
    task = only_job(job_store).request.task
    assert task is not None
    assert (task.calibration.uri, task.calibration.limit) == (rows.uri, 3)
    assert task.evaluation is not None
    assert task.evaluation.uri == held_out.uri


def test_submit_refuses_rows_without_the_columns_of_the_task(
    taskslim: Taskslim, request_file: Path, place: Path, server: tuple[str, Settings]
) -> None:
    (place / "rows.csv").write_text("sentence,label\nfine,positive\n")
    run = taskslim("submit", request_file, "--calibration", "rows.csv")
    assert (run.code, uploads(server)) == (1, [])
    assert run.error.startswith("rows.csv lacks 'text', which the task reads; its columns are 'sentence', 'label'")


def test_submit_needs_a_task_for_rows(taskslim: Taskslim, place: Path, server: tuple[str, Settings]) -> None:
    (place / "union.json").write_text('{"tasks": []}')
    run = taskslim("submit", "union.json", "--calibration", "rows.csv")
    assert (run.code, uploads(server)) == (1, [])
    assert "name rows within `tasks`" in run.error


def test_rows_stay_where_the_request_may_have_been_accepted(
    taskslim: Taskslim,
    request_file: Path,
    server: tuple[str, Settings],
    job_store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send = Api.submit

    def lose_the_answer(self: Api, request: Any) -> None:
        send(self, request)
        raise ApiUnavailable("no answer")

    monkeypatch.setattr(Api, "submit", lose_the_answer)
    assert taskslim("submit", request_file, "--calibration", "rows.csv").code == 1
    task = only_job(job_store).request.task
    assert task is not None
    assert [found.uri for found in uploads(server)] == [task.calibration.uri]
