"""The status page in a real browser against the real API. The tests change the records in place of a worker."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.openapi.response_examples import REPORT
from service.api.routes.status_page import DIRECTORY
from service.contract.fields import groups
from service.contract.ids import DEFAULT_TENANT
from service.contract.job import JobError, Progress, Stage
from service.contract.method import Method
from service.contract.report import Report, StageTiming
from service.contract.request import JobRequest
from service.contract.result import CurvePoint, Estimate
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.planning.time_estimate import Durations
from service.settings import Settings
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support import checkpoints, http, jobs
from tests.support.api_server import serving
from tests.support.browser import Browser, Tab
from tests.support.contract_examples import REQUEST, report
from tests.support.finished_jobs import FILES, finish

ROWS = "document.querySelectorAll('tbody tr').length"


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Settings with a long lease, so that no job of a slow test is requeued."""
    return settings.model_copy(update={"lease_seconds": 300.0})


@pytest.fixture
def page(patient: Settings) -> Iterator[str]:
    with serving(patient) as url:
        yield url


@pytest.fixture
def job_store(redis: Redis, patient: Settings) -> JobStore:
    return JobStore(redis, lease_seconds=patient.lease_seconds)


@pytest.fixture
def tab(browser: Browser) -> Tab:
    tab = Tab(browser)
    tab.resize(1280, 900)
    return tab


def new_job(job_store: JobStore, **fields: Any) -> JobRecord:
    return job_store.accept(new_record(JobRequest.model_validate(REQUEST.model_dump() | fields)))


def finished_job(job_store: JobStore, storage: Storage, **fields: Any) -> JobRecord:
    """A job that succeeded."""
    job = new_job(job_store, **fields)
    finish(job, job_store, storage, files_of(job))
    return job


def files_of(job: JobRecord) -> dict[str, bytes]:
    """A checkpoint and a report that can be read."""
    return FILES | {"report.json": report(job, 1).model_dump_json().encode()}


def set_field(tab: Tab, name: str, value: str) -> None:
    """Set a field of the form as typing does."""
    field = f"document.querySelector('[name=\"{name}\"]')"
    tab.run(f"{field}.value = {json.dumps(value)}, {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


# --- the files -----------------------------------------------------------------------------------------------------


def test_content_security_policy_allows_neither_inline_nor_external_content(client: TestClient) -> None:
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self' 'sha256-")
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|https?://", answer.text)


def test_only_files_of_the_page_are_served(client: TestClient) -> None:
    files = [path for path in DIRECTORY.rglob("*") if path.suffix in (".js", ".css", ".svg")]
    names = [path.relative_to(DIRECTORY).as_posix() for path in files]
    assert len(names) > 10
    assert "form/form.js" in names
    assert {client.get(f"/pages/{name}").status_code for name in names} == {200}
    for name in ("report.html", "..%2fapp.py", "%2e%2e/app.py", "form/..%2f..%2fapp.py", "no.js", "%2fetc%2fpasswd"):
        assert client.get(f"/pages/{name}").status_code == 404


def test_job_page_lists_every_stage_in_order() -> None:
    [listed] = re.findall(r"const STAGES = (\[[^;]*\]);", (DIRECTORY / "job.js").read_text())
    assert json.loads(listed) == [stage.value for stage in Stage]


def test_files_of_the_page_refer_to_no_other_server(client: TestClient) -> None:
    for path in DIRECTORY.rglob("*.[jc]s*"):
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|\beval\(|localStorage|sessionStorage|cookie",
            path.read_text(),
        )


# --- the list ------------------------------------------------------------------------------------------------------


def test_empty_list_links_to_the_form(page: str, tab: Tab) -> None:
    tab.open(page)
    tab.wait_for("document.querySelector('.empty')?.innerText.includes('No job yet')")
    assert "no live worker" in tab.wait_for("document.getElementById('health').innerText")
    assert tab.complaints() == []


def test_list_follows_a_running_job_to_its_end(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    job = new_job(job_store)
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.25))
    tab.open(page)
    tab.wait_for("document.querySelector('progress')?.value == 0.25")
    tab.run("document.querySelector('tbody a').focus()")
    job_store.progress(lease, Progress(fraction=0.5, done=52, total=128, unit="examples", eta_seconds=12.4))
    tab.wait_for("document.querySelector('progress').value == 0.5")
    assert "52 of 128 examples · 12 s left" in tab.text()
    assert tab.run("document.activeElement === document.querySelector('tbody a')")
    job_store.fail(lease, JobError(code="unknown_label", message="line 17 has the label 'neutral'"))
    tab.wait_for("document.querySelector('.status')?.dataset.status == 'failed'")
    assert "line 17 has the label 'neutral'" in tab.text()
    assert tab.complaints() == []


def test_filters_of_the_list_are_part_of_the_address(page: str, tab: Tab, job_store: JobStore) -> None:
    new_job(job_store, tags={"team": "search"})
    cancelled = new_job(job_store, tags={"team": "ads"})
    job_store.cancel(DEFAULT_TENANT, cancelled.id)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 2")
    tab.run("document.querySelector('[name=status]').value = 'cancelled'")
    tab.run("document.querySelector('.filters').requestSubmit()")
    tab.wait_for(f"{ROWS} == 1 && document.querySelector('tbody tr').dataset.job == '{cancelled.id}'")
    assert tab.run("location.hash") == "#/?status=cancelled"
    tab.open(f"{page}#/?tag=team%3Asearch")
    tab.wait_for(f"{ROWS} == 1 && document.querySelector('tbody tr').dataset.job != '{cancelled.id}'")
    tab.open(f"{page}#/?tag=team%3Anobody")
    tab.wait_for("document.querySelector('.empty')?.innerText.includes('No job matches')")


def test_second_page_of_the_list_is_shown_on_demand(page: str, tab: Tab, job_store: JobStore) -> None:
    for _ in range(21):
        new_job(job_store)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 20")
    tab.run("[...document.querySelectorAll('button')].find((button) => button.innerText == 'Show more').click()")
    tab.wait_for(f"{ROWS} == 21")


# --- a job ---------------------------------------------------------------------------------------------------------


def test_finished_job_shows_report_and_files(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    job = finished_job(job_store, storage)
    tab.open(f"{page}#/jobs/{job.id}")
    inside = "document.querySelector('iframe')?.contentDocument"
    tab.wait_for(f"{inside}?.querySelector('.figures')")
    assert tab.run(f"getComputedStyle({inside}.querySelector('.figures')).borderCollapse") == "collapse"
    tab.wait_for(f"document.querySelector('iframe').offsetHeight == {inside}.documentElement.offsetHeight")
    tab.wait_for("document.body.innerText.replaceAll('\\n', '').includes('134.5 M → 111.3 M')")
    config = f"{page}jobs/{job.id}/artifacts/model/config.json"
    tab.wait_for(f"[...document.querySelectorAll('.files a')].some((link) => link.href == '{config}')")
    assert tab.complaints() == []


def test_job_page_goes_from_progress_to_result_without_a_reload(
    page: str, tab: Tab, job_store: JobStore, storage: Storage
) -> None:
    job = new_job(job_store)
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for("document.querySelector('.status')?.dataset.status == 'queued'")
    tab.run("document.querySelector('h1').tabIndex = -1, document.querySelector('h1').focus()")
    finish(job, job_store, storage, files_of(job))
    tab.wait_for("document.querySelector('.tiles')")
    assert tab.run("document.querySelector('.status').dataset.status") == "succeeded"
    assert tab.run("document.activeElement.tagName") == "H1"


def test_job_can_be_cancelled(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store)
    tab.open(f"{page}#/jobs/{job.id}")
    button = "[...document.querySelectorAll('button')].find((button) => button.innerText == 'Cancel')"
    tab.wait_for(button + " !== undefined")
    tab.run(f"{button}.click()")
    tab.wait_for("document.querySelector('.status').dataset.status == 'cancelled'")
    assert job_store.get(DEFAULT_TENANT, job.id).status == "cancelled"


def test_page_of_an_unknown_job_shows_the_problem(page: str, tab: Tab) -> None:
    tab.open(f"{page}#/jobs/01KB3ZJ5T8Q6W2E4R9Y7N1M0PX")
    assert "there is no job" in tab.wait_for("document.querySelector('.problem')?.innerText")


def test_controls_stage_is_shown_only_where_it_is_requested(page: str, tab: Tab, job_store: JobStore) -> None:
    states = "[...document.querySelectorAll('.stages li')].map((item) => [item.innerText, item.dataset.state])"
    shown = []
    for asked in (True, False):
        job = new_job(job_store, method={"controls": asked})
        lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
        stage = Stage.controls if asked else Stage.evaluate_slim
        job_store.set_stage(lease, stage, Progress(fraction=0.8))
        tab.open(f"{page}#/jobs/{job.id}")
        wanted = stage.value.replace("_", " ")
        tab.wait_for(f"document.querySelector('.stages [data-state=now]')?.innerText == '{wanted}'")
        shown.append(dict(tab.run(states)))
    assert (shown[0]["evaluate slim"], shown[0]["controls"], shown[0]["verify"]) == ("done", "now", "ahead")
    assert "controls" not in shown[1]


def test_metric_without_labels_is_named_agreement(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    job = new_job(job_store)
    made = report(job, 1).model_dump()
    for model in ("dense", "slim"):
        made["result"]["metrics"][model]["judged_by"] = "none"
    report_of = Report.model_validate(made)
    finish(job, job_store, storage, FILES | {"report.json": report_of.model_dump_json().encode()}, report_of.result)
    tab.open(page)
    tab.wait_for("document.querySelector('.outcome')?.innerText.includes('Agreement with the dense model')")
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for("document.querySelector('.tiles')?.innerText.includes('Agreement with the dense model')")
    assert "accuracy" not in tab.run("document.querySelector('.tiles').innerText").lower()


def test_failed_search_shows_the_measured_models(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store, target={"keep_metric": 0.98})
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    found = Estimate(value=0.625, low=0.5, high=0.75)
    point = CurvePoint(ratio=0.125, parameters=9, bytes=18, examples=20, metric=found, share=found, meets=False)
    message = "no smaller model was shown to keep it"
    job_store.fail(lease, JobError(code="target_unreachable", message=message, curve=[point]))
    answer = http.get(f"{page}jobs/{job.id}").json()
    assert answer["error"]["curve"] == [point.model_dump(mode="json")]
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for("document.querySelector('.curve')?.innerText.includes('12.5\\u00a0%')")
    shown = tab.run("document.querySelector('.curve').innerText").replace("\N{NO-BREAK SPACE}", " ")
    assert "62.5 % (50.0 % to 75.0 %)" in shown


# --- the form ------------------------------------------------------------------------------------------------------


def fill_form(tab: Tab, body: dict[str, Any]) -> None:
    tab.wait_for("document.querySelector('form.request')")
    set_field(tab, "model.uri", body["model"]["uri"])
    set_field(tab, "task.template", body["task"]["template"])
    set_field(tab, "task.labels", "\n".join(f"{label} = {word}" for label, word in body["task"]["labels"].items()))
    rows = body["task"]["calibration"]["rows"]
    set_field(tab, "task.calibration.rows", "\n".join(json.dumps(row) for row in rows))
    set_field(tab, "target.ratio", "0.25")
    set_field(tab, "tags", "team:search, owner:O'Hara")


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


SWEEP = {"target": {"sweep": [0.1, 0.3], "artifacts": [0.1]}}


@pytest.mark.parametrize("fields", [{}, ELABORATE, SWEEP], ids=["plain", "elaborate", "sweep"])
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


def test_job_runs_from_the_form_to_its_report(page: str, tab: Tab, patient: Settings, tmp_path: Path) -> None:
    model = jobs.checkpoint(tmp_path / "model")
    asked = jobs.request(model, 40).model_dump(mode="json")
    task = asked["task"] | {"calibration": {"rows": [{"text": "good film", "label": "positive"}]}}
    tab.open(f"{page}#/new")
    fill_form(tab, asked | {"task": task})
    set_field(tab, "task.calibration.rows", "")
    set_field(tab, "task.calibration.uri", asked["task"]["calibration"]["uri"])
    set_field(tab, "output.round_to", "8")
    with jobs.worker(patient):
        tab.run("document.querySelector('form.request').requestSubmit()")
        tab.wait_for("document.querySelector('iframe')?.contentDocument?.querySelector('.figures')", 180)
    tab.wait_for("document.body.innerText.includes('model/README.md')")  # the list of files may come later
    assert "Kept share by layer" in tab.run("document.querySelector('iframe').contentDocument.body.innerText")
    assert tab.run("document.querySelectorAll('.events li').length") > len(Stage) - 1
    assert tab.complaints() == []


# --- everybody -----------------------------------------------------------------------------------------------------


def test_api_key_is_requested_and_kept_in_memory_only(page: str, tab: Tab, job_store: JobStore, redis: Redis) -> None:
    _, key = ApiKeys(redis).create()
    job = new_job(job_store)
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for("document.getElementById('key-dialog')?.open")
    tab.type(key)
    tab.press("Enter")
    tab.wait_for("document.querySelector('.status')?.dataset.status == 'queued'")
    lease = job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.5))
    tab.wait_for("document.querySelector('progress')?.value == 0.5")
    assert tab.run("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert key not in tab.run("document.documentElement.outerHTML + location.href")
    tab.call("Page.reload")
    tab.wait_for("document.getElementById('key-dialog')?.open")


def test_list_is_usable_by_keyboard(page: str, tab: Tab, job_store: JobStore) -> None:
    job = new_job(job_store)
    tab.open(page)
    tab.wait_for(f"{ROWS} == 1")
    tab.press("Tab")
    assert tab.run("document.activeElement.className") == "skip"
    for _ in range(20):
        tab.press("Tab")
        if tab.run("document.activeElement.closest('tbody') !== null"):
            break
    tab.press("Enter")
    tab.wait_for(f"location.hash == '#/jobs/{job.id}' && document.activeElement.tagName == 'H1'")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_views_fit_the_width_of_a_phone(
    page: str, tab: Tab, job_store: JobStore, storage: Storage, dark: bool, tmp_path: Path
) -> None:
    done, waiting = finished_job(job_store, storage), new_job(job_store, tags={"a-rather-long-key": "x" * 60})
    tab.resize(360, 740, dark=dark)
    views = {
        "#/": "tbody tr",
        f"#/jobs/{done.id}": "iframe",
        f"#/jobs/{waiting.id}": "progress",
        "#/new": "form.request",
    }
    for view, sign in views.items():
        tab.open(page + view)
        tab.wait_for(f"document.querySelector('{sign}') !== null")
        tab.run("document.querySelectorAll('details.expert').forEach((section) => (section.open = true))")
        assert tab.run("document.documentElement.scrollWidth") == 360, view
    colour = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", colour)[0]) < 128) is dark
