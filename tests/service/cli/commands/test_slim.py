"""`taskslim slim` with a real server: requests, messages and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.cli.client import Api
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import PRESETS
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys, KeyScope
from tests.support import http, jobs
from tests.support.cli_rows import ROWS, only_job, uploads
from tests.support.command_line import Run, Taskslim, when_submitted
from tests.support.finished_jobs import FILES, fail, finish
from tests.support.waiting import wait_until
from tests.support.walkthrough import tiny_llama

TEMPLATE = r"Review: {text}\nTone:"
NO_KEY = "slim_live_none_" + "0" * 64


def printed_request(run: Run) -> dict[str, Any]:
    """The request that a run has shown on standard error."""
    found: dict[str, Any] = json.loads(run.err[run.err.index("{\n") : run.err.index("\n}") + 2])
    return found


# --- the request -----------------------------------------------------------------------------------------------------


def test_rows_are_uploaded_and_the_request_is_planned_shown_and_sent(
    taskslim: Taskslim, place: Path, server: tuple[str, Settings], job_store: JobStore
) -> None:
    run = taskslim("slim", "model", "--task", "sst2", "--rows", "rows.csv", "--evaluation", "held-out.jsonl")
    assert run.code == 0, run.err
    held_out, rows = uploads(server)
    assert [(found.name, found.rows) for found in (held_out, rows)] == [("held-out.jsonl", 1), ("rows.csv", 4)]
    assert printed_request(run) == {
        "model": {"uri": (place / "model").as_uri()},
        "task": {"preset": "sst2", "calibration": {"uri": rows.uri}, "evaluation": {"uri": held_out.uri}},
        "target": {"ratio": 0.3},
    }
    record = only_job(job_store)
    assert run.out == f"{record.id}\n"
    asked = JobRequest.model_validate(printed_request(run))
    assert record.request == asked.model_copy(update={"retention_days": record.request.retention_days})
    assert "plan: 3,212 → 2,444 parameters (−23.9\N{NO-BREAK SPACE}%), decoder ffn 256 → 192" in run.err


def test_printed_request_is_sent_by_submit(
    taskslim: Taskslim, place: Path, job_store: JobStore, storage: Storage
) -> None:
    run = taskslim("slim", "model", "--task", "sst2", "--rows", "rows.csv", "--keep", "0.9", "--print-request")
    assert run.code == 0, run.err
    assert "the size after is known when models were measured" in run.err
    assert not job_store.page(DEFAULT_TENANT).records
    (place / "saved.json").write_text(run.out)
    assert taskslim("submit", "saved.json").code == 0
    assert only_job(job_store).request.target == JobRequest.model_validate_json(run.out).target


def test_a_recovery_is_asked_for_by_its_method(taskslim: Taskslim, place: Path) -> None:
    options = ["--task", "sst2", "--rows", "s3://far/rows.jsonl", "--evaluation", "s3://far/test.jsonl"]
    (place / "model.gguf").write_bytes(b"GGUF")  # which no plan reads
    run = taskslim("slim", "model.gguf", *options, "--recover", "distillation", "--print-request")
    assert run.code == 0, run.err
    assert json.loads(run.out)["recovery"] == {"method": "distillation"}
    refused = taskslim("slim", "model.gguf", *options, "--recover", "more")
    assert refused.code == 2
    assert "'lora', 'distillation'" in refused.err


def test_general_rows_and_copies_are_asked_for(taskslim: Taskslim, place: Path) -> None:
    options = ["--task", "sst2", "--rows", "s3://far/rows.jsonl", "--evaluation", "s3://far/test.jsonl"]
    (place / "model.gguf").write_bytes(b"GGUF")  # which no plan reads
    (place / "texts.jsonl").write_text('{"text": "A plain text."}\n' * 10)
    copies = ["--quantise", "w4a16", "--quantise", "int8", "--quantise", "int8"]
    run = taskslim("slim", "model.gguf", *options, "--general", "texts.jsonl", *copies, "--print-request")
    assert run.code == 0, run.err
    request = json.loads(run.out)
    assert request["output"] == {"quantise": ["w4a16", "int8"]}
    assert request["task"]["general"]["uri"].startswith("dataset://")
    assert JobRequest.model_validate(request).general is not None
    (place / "titles.jsonl").write_text('{"title": "A plain text."}\n' * 10)
    refused = taskslim("slim", "model.gguf", *options, "--general", "titles.jsonl")
    assert refused.code != 0
    assert "titles.jsonl lacks 'text'" in refused.err


@pytest.mark.parametrize(
    ("options", "task"),
    [
        (["--task", "imdb", "--name", "films"], {"preset": "imdb", "name": "films"}),
        (
            ["--task", "sst2", "--labels", "positive = good, negative = bad"],
            {"preset": "sst2", "labels": {"positive": "good", "negative": "bad"}},
        ),
        (
            ["--task", TEMPLATE, "--labels", "positive=good,negative=bad"],
            {
                "kind": "classification",
                "template": "Review: {text}\nTone:",
                "labels": {"positive": "good", "negative": "bad"},
            },
        ),
        (["--task", "Title of {text}:", "--target", "title"], {"kind": "generation", "template": "Title of {text}:"}),
    ],
    ids=["preset", "preset with labels", "labels", "texts"],
)
def test_task_is_that_of_the_options(
    taskslim: Taskslim, place: Path, server: tuple[str, Settings], options: list[str], task: dict[str, Any]
) -> None:
    run = taskslim("slim", "model", "--rows", "rows.csv", "--limit", "4", *options, "--print-request")
    assert run.code == 0, run.err
    [rows] = uploads(server)
    assert json.loads(run.out)["task"] == task | {"calibration": {"uri": rows.uri, "limit": 4}}
    assert ("target" in rows.columns) is ("--target" in options)


def test_rows_at_a_uri_are_named_as_they_are(taskslim: Taskslim, place: Path, server: tuple[str, Settings]) -> None:
    uri = (place / "rows.csv").as_uri()
    run = taskslim("slim", (place / "model").as_uri(), "--task", "sst2", "--rows", uri)
    assert run.code == 0, run.err
    assert printed_request(run)["task"]["calibration"] == {"uri": uri}
    assert uploads(server) == []


def test_gguf_model_is_submitted_without_a_plan(taskslim: Taskslim, place: Path, job_store: JobStore) -> None:
    (place / "model.gguf").touch()
    run = taskslim("slim", "model.gguf", "--task", "sst2", "--rows", "rows.csv")
    assert run.code == 0, run.err
    assert "not planned: model.uri: a plan needs config.json" in run.err
    assert only_job(job_store).request.model.uri == (place / "model.gguf").as_uri()


# --- the job ---------------------------------------------------------------------------------------------------------


def test_download_waits_for_the_job_and_writes_its_files(
    taskslim: Taskslim, place: Path, job_store: JobStore, storage: Storage
) -> None:
    thread = when_submitted(job_store, lambda record: finish(record, job_store, storage))
    run = taskslim("slim", "model", "--task", "sst2", "--rows", "rows.csv", "--download", "out")
    thread.join()
    assert run.code == 0, run.err
    assert {name: (place / "out" / name).read_bytes() for name in FILES} == FILES
    assert len(run.out.split()) == 1
    assert "succeeded" in run.err
    assert run.error == "3 files in out"


def test_watch_exits_with_1_if_the_job_fails(taskslim: Taskslim, place: Path, job_store: JobStore) -> None:
    thread = when_submitted(job_store, lambda record: fail(record, job_store, "invalid_model", "it overflows"))
    run = taskslim("slim", "model", "--task", "sst2", "--rows", "rows.csv", "--watch")
    thread.join()
    assert (run.code, run.error) == (1, "the job failed: it overflows (invalid_model)")


def test_interrupted_watch_ends_with_130_and_leaves_the_job(
    taskslim: Taskslim, place: Path, job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Api, "watch", interrupt)
    run = taskslim("slim", "model", "--task", "sst2", "--rows", "rows.csv", "--watch")
    assert (run.code, run.out.strip()) == (130, only_job(job_store).id)
    assert "Traceback" not in run.err


def test_worker_slims_a_model(
    taskslim: Taskslim,
    place: Path,
    server: tuple[str, Settings],
    job_store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_llama(place / "tiny")
    jobs.rows_file(place / "many.jsonl", 40)
    watch = Api.watch

    def run_and_watch(*arguments: Any, **options: Any) -> Any:
        jobs.run_here(server[1], only_job(job_store))
        return watch(*arguments, **options)

    monkeypatch.setattr(Api, "watch", run_and_watch)
    run = taskslim("slim", "tiny", "--task", "sst2", "--rows", "many.jsonl", "--watch", "--download", "out")
    assert run.code == 0, run.err
    result = only_job(job_store).result
    assert result is not None
    assert result.metrics.dense.examples == 8  # a fifth of the rows
    assert json.loads((place / "out/model/config.json").read_text())["intermediate_size"] == 128
    assert json.loads((place / "out/report.json").read_text())["job_id"] == run.out.strip()
    assert "33.3 % of the parameters of ffn removed" in run.err.replace("\N{NO-BREAK SPACE}", " ")


# --- what is refused -------------------------------------------------------------------------------------------------

NAMED = ["model", "--task", "sst2", "--rows", "rows.csv"]
OWN = ["model", "--task", TEMPLATE, "--rows", "rows.csv"]
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "no rows": (["model", "--task", "sst2"], ["Missing option '--rows'"]),
    "unknown option": ([*NAMED, "--ration", "0.3"], ["--ration", "taskslim slim --help"]),
    "no such model": (["owner/name", *NAMED[1:]], ["no directory owner/name", "hf://owner/name"]),
    "no such file": ([*NAMED[:-1], "none.csv"], ["--rows", "none.csv does not exist", ".jsonl, .csv, .parquet"]),
    "directory": ([*NAMED[:-1], "model"], ["model is a directory"]),
    "no such evaluation": ([*NAMED, "--evaluation", "none.csv"], ["--evaluation", "none.csv does not exist"]),
    "format": ([*NAMED[:-1], "rows.txt"], ["rows.txt does not end in one of .jsonl, .csv, .parquet"]),
    "no such preset": (["model", "--task", "sst3", "--rows", "rows.csv"], ["no preset 'sst3'", *PRESETS, "--labels"]),
    "both targets": ([*NAMED, "--keep", "0.98", "--ratio", "0.5"], ["--keep", "--ratio", "give one of them"]),
    "high ratio": ([*NAMED, "--ratio", "1"], ["--ratio", "less than or equal to 0.95"]),
    "high share": ([*NAMED, "--keep", "1.5"], ["--keep", "less than or equal to 1"]),
    "no number": ([*NAMED, "--ratio", "half"], ["--ratio", "'half'"]),
    "no answers": (OWN, ["--labels label=word,label=word", "--target COLUMN"]),
    "no task": (["model", "--rows", "rows.csv"], ["--task", "give a preset", "--messages COLUMN"]),
    "kind of a preset": ([*NAMED, "--kind", "regression"], ["--kind", "a preset has a kind"]),
    "no such kind": ([*OWN, "--kind", "ranking"], ["--kind", "'ranking'"]),
    "template beside messages": ([*OWN, "--messages", "chat"], ["--task", "need no preset and no template"]),
    "labels of a regression": ([*OWN, "--kind", "regression", "--labels", "a=b,c=d"], ["--labels", "has no labels"]),
    "both answers": ([*OWN, "--labels", "a=b,c=d", "--target", "title"], ["--labels", "--target"]),
    "texts of a preset": ([*NAMED, "--target", "title"], ["--target", "sst2 has labels"]),
    "label without word": ([*OWN, "--labels", "positive"], ["'positive' is not label=word"]),
    "one label": ([*OWN, "--labels", "positive=good"], ["two at least"]),
    "label twice": ([*OWN, "--labels", "a=b,a=c"], ["the label 'a' is there twice"]),
    "words alike": ([*OWN, "--labels", "a=b,c=b"], ["--labels", "the same answer word 'b'"]),
    "open brace": ([*OWN[:2], "Review: {text", *OWN[3:], "--labels", "a=b,c=d"], ["--task", "wrong braces"]),
    "answer in the template": ([*OWN, "--target", "text"], ["--task", "remove the column {text}"]),
    "other column at a URI": (
        [*OWN[:3], "--rows", "s3://bucket/rows.csv", "--target", "title"],
        ["--rows", "must be in the column 'target'"],
    ),
    "same rows": ([*NAMED, "--evaluation", "rows.csv"], ["--evaluation", "a fifth of them is set aside"]),
    "long name": ([*NAMED[:-1], "x" * 5000], ["--rows", "cannot be read: File name too long"]),
    "no such user": (["~nobody-has-this-name/m", *NAMED[1:]], ["MODEL", "cannot be read"]),
    "print and watch": ([*NAMED, "--print-request", "--watch"], ["--print-request", "leave out --watch"]),
    "no URL": ([*NAMED, "--url", "localhost"], ["--url", "such as http://127.0.0.1:8000"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_option_ends_with_2_and_one_line(
    taskslim: Taskslim, place: Path, server: tuple[str, Settings], job_store: JobStore, case: str
) -> None:
    (place / "rows.txt").write_text(ROWS)
    options, says = WRONG[case]
    run = taskslim("slim", *options)
    assert (run.code, run.out) == (2, "")
    assert [part for part in says if part not in run.error] == []
    assert [line for line in run.err.splitlines()[:-1] if " rows uploaded as " not in line] == []
    assert (job_store.page(DEFAULT_TENANT).records, uploads(server)) == ([], [])


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "missing columns": (
        "sentence,mood\nfine,1\n",
        [],
        "rows.csv lacks 'label', 'text', which the task reads; its columns are 'sentence', 'mood'",
    ),
    "unknown label": (
        "text,label\nfine,1\n",
        [],
        "task.calibration.uri: line 1 has the label '1', which `task.labels` does not name",
    ),
    "no such column": (ROWS, ["--task", "{text}:", "--target", "name"], "no row has the column 'name': the rows have"),
    "broken file": ("text,label\nfine\n", [], "line 2 has more or fewer columns"),
    "no width left": (ROWS, ["--ratio", "0.95"], "target.ratio: a ratio of 0.95 leaves 0 of the 256 ffn"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_request_ends_with_1_and_leaves_nothing(
    taskslim: Taskslim, place: Path, server: tuple[str, Settings], job_store: JobStore, case: str
) -> None:
    rows, options, says = REFUSED[case]
    (place / "rows.csv").write_text(rows)
    run = taskslim("slim", *NAMED, *options)
    assert (run.code, run.out) == (1, "")
    assert run.error.startswith(says)
    assert (job_store.page(DEFAULT_TENANT).records, uploads(server)) == ([], [])


def test_every_problem_of_a_request_has_a_line(taskslim: Taskslim, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"model": {"uri": "x"}, "task": 3, "target": {"ratio": 2}}')
    run = taskslim("submit", tmp_path / "bad.json")
    assert run.code == 1
    lines = run.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["task", "target.ratio"]
    assert all(line.endswith("(invalid_request)") for line in lines)


def test_server_that_is_away_is_named(taskslim: Taskslim, place: Path) -> None:
    run = taskslim("slim", *NAMED, "--url", "http://127.0.0.1:9")
    assert run.code == 1
    assert run.err.startswith("no answer from http://127.0.0.1:9/datasets")
    assert run.error.endswith("start it with `taskslim serve`, or name a server with --url or SLIM_URL")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("SLIM_API_KEY", "slim_live_ключ", "SLIM_API_KEY"), ("SLIM_PORT", "http", "SLIM_PORT: Input should be a valid")],
)
def test_wrong_setting_is_named(
    taskslim: Taskslim, place: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    run = taskslim("slim", *NAMED)
    assert (run.code, len(run.err.splitlines())) == (2, 1)
    assert says in run.error


@pytest.mark.parametrize("wrong", ["none", "unknown", "without a scope"])
def test_wrong_key_is_refused_with_the_variable_or_the_scope(
    taskslim: Taskslim,
    place: Path,
    server: tuple[str, Settings],
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    _, key = ApiKeys(redis).create(scopes=[KeyScope.jobs_write])
    wait_until(lambda: http.get(f"{server[0]}/jobs").status_code == 401)  # the server remembers callers for a second
    monkeypatch.delenv("SLIM_API_KEY", raising=False)
    if wrong != "none":
        monkeypatch.setenv("SLIM_API_KEY", NO_KEY if wrong == "unknown" else key)
    run = taskslim("slim", *NAMED)
    assert (run.code, len(run.err.splitlines())) == (1, 1)
    says = "lacks the scope `datasets:write`" if wrong == "without a scope" else "set SLIM_API_KEY"
    assert says in run.error
