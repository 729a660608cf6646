"""The page of a job in a real browser."""

from service.contract.answers.job import JobError, Progress, Stage
from service.contract.answers.report import Report
from service.contract.answers.result import CurvePoint, Estimate
from service.contract.ids import DEFAULT_TENANT
from service.contract.options import Precision
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support import http
from tests.support.browser import Tab
from tests.support.contract_examples import quantised_model, report
from tests.support.finished_jobs import FILES, finish
from tests.support.status_page import files_of, finished_job, new_job


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


def test_job_says_what_becomes_of_its_model(page: str, tab: Tab, job_store: JobStore, storage: Storage) -> None:
    output = {"formats": ["safetensors", "gguf"], "quantise": ["w8a8"]}
    plain, job = new_job(job_store), new_job(job_store, recovery={"seconds": 60}, output=output)
    stages = "[...document.querySelectorAll('.stages li')].map((item) => item.innerText)"
    tab.open(f"{page}#/jobs/{plain.id}")
    tab.wait_for(f"{stages}.includes('verify')")
    assert not {"recover", "export", "quantise"} & set(tab.run(stages))
    tab.open(f"{page}#/jobs/{job.id}")
    tab.wait_for(f"{stages}.includes('recover')")
    assert tab.run(stages)[-4:] == ["verify", "export", "quantise", "upload"]
    assert "Recovery: distillation, at most 1 min 0 s. Exports: gguf. Quantised copies: w8a8." in tab.text()
    made = report(job, 1)
    copies = [quantised_model(made.result, Precision.w8a8)]
    made = made.model_copy(update={"result": made.result.model_copy(update={"quantised": copies})})
    finish(job, job_store, storage, FILES | {"report.json": made.model_dump_json().encode()}, made.result)
    tab.wait_for("document.querySelector('.tiles')?.innerText.includes('Accuracy in w8a8')")


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
