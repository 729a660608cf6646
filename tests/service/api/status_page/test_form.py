"""The form in a real browser: the request that it shows, its errors and its plan."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from service.api.openapi.response_examples import REPORT
from service.cli.__main__ import app
from service.cli.commands import slim
from service.contract.answers.job import Stage
from service.contract.answers.report import Report, StageTiming
from service.contract.fields import groups
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method
from service.jobs.store import JobStore
from service.planning.time_estimate import Durations
from service.settings import Settings
from tests.support import checkpoints, http, jobs
from tests.support.browser import Tab
from tests.support.status_page import fill_form, new_job, set_field
from tests.support.waiting import wait_until


def test_form_submits_the_request_that_it_shows(page: str, tab: Tab, body: dict[str, Any], job_store: JobStore) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    shown = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    assert shown["target"] == {"ratio": 0.25}
    assert shown["task"]["calibration"]["rows"] == body["task"]["calibration"]["rows"]
    tab.run("document.querySelector('form.request').requestSubmit()")
    tab.wait_for("location.hash.startsWith('#/jobs/') && document.querySelector('.status')")
    [job] = job_store.page(DEFAULT_TENANT).records
    assert job.request.target.ratio == 0.25
    assert job.request.method == Method()
    assert job.tags == {"team": "search", "owner": "O'Hara"}


def test_form_shows_the_fields_of_the_target_that_is_chosen(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "target", "bytes")
    set_field(tab, "target.bytes", "240000000")
    set_field(tab, "target.keep_metric", "0.98")
    request = "JSON.parse(document.querySelector('.preview details pre').textContent).target"
    visible = "[...document.querySelectorAll('[data-target]')].filter((field) => !field.hidden)"
    assert tab.run(request) == {"bytes": 240000000, "keep_metric": 0.98}
    assert tab.run(f"{visible}.map((field) => field.dataset.target)") == ["keep_metric", "bytes"]
    set_field(tab, "target", "sweep")
    set_field(tab, "target.sweep", "0.1, 0.3")
    assert tab.run(request) == {"sweep": [0.1, 0.3]}
    set_field(tab, "target.artifacts", "0.1")
    assert tab.run(request) == {"sweep": [0.1, 0.3], "artifacts": [0.1]}
    set_field(tab, "target", "latency_ms")
    set_field(tab, "target.latency_ms", "40")
    assert tab.run(request) == {"latency_ms": 40, "keep_metric": 0.98}
    set_field(tab, "target.latency_ms.batch", "8")
    set_field(tab, "target.latency_ms.tokens", "128")
    assert tab.run(request) == {"latency_ms": {"value": 40, "batch": 8, "tokens": 128}, "keep_metric": 0.98}


def test_form_shows_the_field_of_the_prompt_that_is_chosen(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    request = "JSON.parse(document.querySelector('.preview details pre').textContent).task"
    visible = "[...document.querySelectorAll('[data-prompt]')].filter((field) => !field.hidden)"
    for prompt, column in (("messages", "messages"), ("template", None)):
        set_field(tab, "prompt", prompt)
        assert tab.run(f"{visible}.map((field) => field.dataset.prompt)") == [prompt]
        task = tab.run(request)
        assert (task.get("messages"), task.get("template")) == (column, None if column else body["task"]["template"])
    set_field(tab, "prompt", "messages")
    set_field(tab, "task.messages", "chat")
    assert tab.run(request)["messages"] == "chat"
    set_field(tab, "task.kind", "token_classification")
    assert tab.run(f"{visible}.length") == 0
    assert tab.run(request).keys() == {"kind", "labels", "calibration"}
    set_field(tab, "task.preset", "sst2")
    assert tab.run(request).keys() == {"preset", "calibration"}


def test_form_folds_the_expert_fields_of_the_contract(page: str, tab: Tab) -> None:
    tab.open(f"{page}#/new")
    tab.wait_for("document.querySelector('form.request')")
    folded = set(tab.run("[...document.querySelectorAll('details.expert [name]')].map((control) => control.name)"))
    shown = (
        set(tab.run("[...document.querySelectorAll('form.request [name]')].map((control) => control.name)")) - folded
    )
    group = groups(JobRequest)
    assert {group[name] for name in folded} == {"expert"}
    # `tasks` and the fields of a target are shown where the form's choice of a task or target asks for them
    asked_for = {name for name in shown if name == "tasks" or name.startswith("target.")}
    assert {name for name in shown - asked_for if group.get(name) == "expert"} == set()
    assert {"model.uri", "task.preset", "target.ratio", "method.units", "tags", "webhook.url"} <= shown
    assert tab.run("document.querySelectorAll('details.expert[open]').length") == 0


def test_error_of_an_expert_field_opens_its_section(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "method.steps", "1000")
    tab.run("document.querySelector('form.request').requestSubmit()")
    tab.wait_for("document.querySelector('details.expert[open] [name=\"method.steps\"]')")
    assert tab.run("document.activeElement.name") == "method.steps"


def test_form_of_a_job_opens_the_expert_fields_that_the_job_has(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store, model={"uri": "hf://owner/name", "revision": "v1"})
    tab.open(f"{page}#/new?from={job.id}")
    tab.wait_for("document.querySelector('details.expert[open] [name=\"model.revision\"]')?.value == 'v1'")
    assert tab.run("document.querySelector('[name=observe]').closest('details').open") is False


def test_form_asks_for_layout_steps_and_controls(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "output.layout", "per_layer")
    set_field(tab, "method.steps", "3")
    tab.run("document.querySelector('[name=\"method.controls\"]').click()")
    shown = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    assert (shown["output"]["layout"], shown["method"]["steps"]) == ("per_layer", 3)
    assert shown["method"]["controls"] is True


def test_curl_command_of_the_form_submits_a_job(page: str, tab: Tab, body: dict[str, Any], job_store: JobStore) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    command = tab.run("document.querySelector('[aria-label=\"Request as curl\"]').textContent")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(answer.stdout)["status"] == "queued", answer.stdout
    assert len(job_store.page(DEFAULT_TENANT).records) == 1


def test_error_is_shown_at_its_field(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "target.ratio", "2")
    tab.run("document.querySelector('form.request').requestSubmit()")
    tab.wait_for("document.querySelector('[name=\"target.ratio\"]').getAttribute('aria-invalid') == 'true'")
    assert "0.95" in tab.run("document.getElementById('field-target.ratio-error').innerText")
    assert tab.run("document.activeElement.name") == "target.ratio"


# The choices in the form, and the same as options of `taskslim slim`.
CHOICES: dict[str, tuple[dict[str, str], list[str]]] = {
    "preset": ({"task.preset": "sst2"}, ["--task", "sst2"]),
    "labels": (
        {"task.template": "Review: {text}\nTone:", "task.labels": "positive = good\nnegative = bad"},
        ["--task", r"Review: {text}\nTone:", "--labels", "positive=good,negative=bad"],
    ),
    "texts": (
        {"task.kind": "generation", "task.template": "Title of {text}:"},
        ["--task", "Title of {text}:", "--target", "target"],
    ),
    "share to keep": (
        {"task.preset": "imdb", "target": "keep_metric", "target.keep_metric": "0.9"},
        ["--task", "imdb", "--keep", "0.9"],
    ),
    "ratio and limit": (
        {"task.preset": "sst2", "target.ratio": "0.5", "task.calibration.limit": "8"},
        ["--task", "sst2", "--ratio", "0.5", "--limit", "8"],
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_form_and_command_line_make_the_same_request(
    page: str, tab: Tab, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    fields, options = CHOICES[choice]
    model = Path(body["model"]["uri"].removeprefix("file://"))
    (rows := model / "rows.jsonl").touch()
    (held_out := model / "held-out.jsonl").touch()
    tab.open(f"{page}#/new")
    tab.wait_for("document.querySelector('form.request')")
    sources = {"task.calibration.uri": rows.as_uri(), "task.evaluation.uri": held_out.as_uri()}
    for name, value in ({"model.uri": model.as_uri()} | sources | fields).items():
        set_field(tab, name, value)
    shown = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    given = [str(model), "--rows", rows.as_uri(), "--evaluation", held_out.as_uri(), *options]
    printed: list[Any] = []
    monkeypatch.setattr(slim, "print_json", printed.append)  # the server logs to the same output
    run = CliRunner().invoke(app, ["slim", *given, "--print-request", "--url", page], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert JobRequest.model_validate(shown).model_dump() == JobRequest.model_validate(printed[0]).model_dump()


def choose_file(tab: Tab, field: str, name: str, content: str) -> None:
    """Choose a file in the input that belongs to a field of the form."""
    tab.wait_for("document.querySelector('form.request')")
    tab.run(
        f"""(input => {{
            const transfer = new DataTransfer();
            transfer.items.add(new File([{json.dumps(content)}], {json.dumps(name)}));
            input.files = transfer.files;
            input.dispatchEvent(new Event("change"));
        }})(document.querySelector('[data-names="{field}"]'))"""
    )


def test_chosen_file_is_uploaded_and_named(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    for field in ("task.calibration.uri", "task.evaluation.uri"):
        choose_file(tab, field, "rows.csv", 'text,label\n"fine, really",positive\n')
        tab.wait_for(f"document.querySelector('[name=\"{field}\"]').value.startsWith('dataset://')")
    task = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))["task"]
    uploaded = http.get(f"{page}datasets").json()["data"]
    assert [found["uri"] for found in uploaded] == [task[part]["uri"] for part in ("evaluation", "calibration")]
    assert [(found["name"], found["rows"]) for found in uploaded] == [("rows.csv", 1)] * 2
    assert "rows" not in task["calibration"]


@pytest.mark.parametrize(
    ("name", "says"), [("rows.txt", "does not end in one of .jsonl,.csv,.parquet"), ("rows.csv", "holds no rows")]
)
def test_refused_file_is_reported_at_its_field(page: str, tab: Tab, name: str, says: str) -> None:
    tab.open(f"{page}#/new")
    choose_file(tab, "task.evaluation.uri", name, "text,label\n")
    tab.wait_for("document.querySelector('[name=\"task.evaluation.uri\"]').getAttribute('aria-invalid') == 'true'")
    assert says in tab.run("document.getElementById('field-task.evaluation.uri-error').innerText")


def test_invalid_inline_rows_are_reported_before_submission(page: str, tab: Tab, body: dict[str, Any]) -> None:
    tab.open(f"{page}#/new")
    fill_form(tab, body)
    set_field(tab, "task.calibration.rows", '{"text": "a"}\nnot json')
    assert "line 2 is not JSON" in tab.text()


def test_form_shows_the_plan_of_its_request(
    page: str, tab: Tab, body: dict[str, Any], tmp_path: Path, redis: Redis
) -> None:
    past = Report.model_validate(REPORT)
    stages = (Stage.evaluate_dense, Stage.attribute, Stage.repair)
    timings = [StageTiming(stage=stage, seconds=2) for stage in stages]
    Durations(redis).record(past.model_copy(update={"timings": timings}))
    checkpoints.write(tmp_path / "tiny", "llama")
    tab.open(f"{page}#/new")
    fill_form(tab, body | {"model": {"uri": (tmp_path / "tiny").as_uri()}})
    set_field(tab, "output.round_to", "8")
    tab.wait_for("document.querySelector('.plan')?.innerText.includes('decoder ffn')")
    assert "llama.cpp loads it" in tab.text()
    assert "The scores have to be computed." in tab.text()
    assert "estimated from 1 past job" in tab.text()
    tab.run("document.querySelector('[name=\"method.units\"][value=heads]').click()")
    tab.wait_for("document.querySelector('.plan')?.innerText.includes('decoder heads')")
    set_field(tab, "output.round_to", "64")
    assert "round_to" in tab.wait_for("document.querySelector('.preview .problem')?.innerText")


ELABORATE: dict[str, Any] = {
    "task": {
        "preset": "sst2",
        "max_words": 20,
        "calibration": {"uri": "file:///rows.jsonl", "limit": 64, "seed": 3},
        "evaluation": {"uri": "file:///test.jsonl", "limit": 9},
    },
    "observe": [
        {"preset": "imdb", "evaluation": {"uri": "file:///imdb.jsonl"}},
        {"name": "own", "template": "{text}:", "labels": {"a": "b", "c": "d"}, "evaluation": {"uri": "file:///x.csv"}},
    ],
    "method": {"scope": "global", "normalisation": "mean", "steps": 4, "units": ["ffn", "heads"], "controls": True},
    "output": {"layout": "per_layer", "round_to": 1},
    "target": {"latency_ms": {"value": 40, "batch": 8, "tokens": 128}},
    "webhook": {"url": "https://example.com/hook", "events": ["job.failed"]},
    "priority": "low",
}


# Stages that a job has only where its request asks for them.
ON_REQUEST = (Stage.synthesise, Stage.search, Stage.recover, Stage.controls, Stage.export, Stage.quantise)
SWEEP = {"target": {"sweep": [0.1, 0.3], "artifacts": [0.1]}}


CHAT = {"task": {"kind": "generation", "messages": "chat", "calibration": {"uri": "file:///rows.jsonl"}}}


TAGS = {"task": {"kind": "token_classification", "calibration": {"uri": "file:///rows.jsonl"}}}


@pytest.mark.parametrize(
    "fields", [{}, ELABORATE, SWEEP, CHAT, TAGS], ids=["plain", "elaborate", "sweep", "chat", "tags"]
)
def test_form_shows_the_request_of_a_job(page: str, tab: Tab, job_store: JobStore, fields: dict[str, Any]) -> None:
    job = new_job(job_store, **fields)
    tab.open(f"{page}#/new?from={job.id}")
    tab.wait_for("document.querySelector('form.request')")
    shown = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    assert JobRequest.model_validate(shown) == job.request
    assert "deadline_seconds" not in shown
    set_field(tab, "observe", "trec = file:///trec.jsonl")
    set_field(tab, "task.evaluation.uri", "")
    changed = json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    assert changed["observe"] == [{"preset": "trec", "evaluation": {"uri": "file:///trec.jsonl"}}]
    assert "evaluation" not in changed["task"]
    set_field(tab, "webhook.url", "")
    assert "webhook" not in json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
    set_field(tab, "observe", "trec")
    assert "neither “preset = URI” nor JSON" in tab.text()


def test_job_runs_from_the_form_to_its_report(
    page: str, tab: Tab, patient: Settings, job_store: JobStore, tmp_path: Path
) -> None:
    model = jobs.checkpoint(tmp_path / "model")
    asked = jobs.request(model, 40).model_dump(mode="json")
    task = asked["task"] | {"calibration": {"rows": [{"text": "good film", "label": "positive"}]}}
    tab.open(f"{page}#/new")
    fill_form(tab, asked | {"task": task})
    set_field(tab, "task.calibration.rows", "")
    set_field(tab, "task.calibration.uri", asked["task"]["calibration"]["uri"])
    set_field(tab, "output.round_to", "8")
    tab.run("document.querySelector('form.request').requestSubmit()")
    wait_until(lambda: job_store.page(DEFAULT_TENANT).records)
    [job] = job_store.page(DEFAULT_TENANT).records
    jobs.run_here(patient, job)
    tab.wait_for("document.querySelector('iframe')?.contentDocument?.querySelector('.figures')")
    tab.wait_for("document.body.innerText.includes('model/README.md')")  # the list of files may come later
    assert "Kept share by layer" in tab.run("document.querySelector('iframe').contentDocument.body.innerText")
    assert tab.run("document.querySelectorAll('.events li').length") >= len(Stage) - len(ON_REQUEST)
    assert tab.complaints() == []
