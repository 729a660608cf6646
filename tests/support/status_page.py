"""Jobs for the status page to show, and fields of its form."""

import json
from typing import Any

from service.contract.request.job_request import JobRequest
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.browser import Tab
from tests.support.contract_examples import REQUEST, report
from tests.support.finished_jobs import FILES, finish

ROWS = "document.querySelectorAll('tbody tr').length"


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


def fill_form(tab: Tab, body: dict[str, Any]) -> None:
    """Fill the form with the model, the rows and the wording of a request."""
    tab.wait_for("document.querySelector('form.request')")
    set_field(tab, "model.uri", body["model"]["uri"])
    set_field(tab, "task.template", body["task"]["template"])
    set_field(tab, "task.labels", "\n".join(f"{label} = {word}" for label, word in body["task"]["labels"].items()))
    rows = body["task"]["calibration"]["rows"]
    set_field(tab, "task.calibration.rows", "\n".join(json.dumps(row) for row in rows))
    set_field(tab, "target.ratio", "0.25")
    set_field(tab, "tags", "team:search, owner:O'Hara")


def shown_request(tab: Tab) -> Any:
    """The request that the form shows as JSON."""
    return json.loads(tab.run("document.querySelector('.preview details pre').textContent"))
