"""Finished jobs of one model and task that differ in size, latency and metric."""

from typing import Any

from service.contract.answers.report import Report
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.contract_examples import REQUEST, report
from tests.support.finished_jobs import FILES, finish

DIGESTS = {"model": "a" * 64, "evaluation": "b" * 64, "calibration": "c" * 64}


def compared_report(job: JobRecord, parameters: int, value: float, **more: Any) -> Report:
    """A report of a job whose slim model has this many parameters and this metric; `more` are fields of the report."""
    made = report(job, 1)
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
    slim = made.result.metrics.slim.model_dump() | {"value": estimate, "raw": estimate}
    result = made.result.model_dump() | {
        "metrics": {"dense": made.result.metrics.dense.model_dump(), "slim": slim},
        "parameters": {"dense": 10, "slim": parameters},
        "bytes": {"dense": 20, "slim": 2 * parameters},
        "latency_ms": made.result.latency_ms.model_dump() | {"slim": parameters / 5},
    }
    task = {"kind": "classification", "template": "{text}", "name": f"title of {job.id}"}
    return Report.model_validate(made.model_dump() | {"task": task, "digests": DIGESTS, "result": result} | more)


def compared_job(
    job_store: JobStore,
    storage: Storage,
    parameters: int,
    value: float,
    *,
    tenant: str = DEFAULT_TENANT,
    request: dict[str, Any] | None = None,
    **more: Any,
) -> str:
    """The id of a job with the report of `compared_report`."""
    asked = JobRequest.model_validate(REQUEST.model_dump() | (request or {}))
    job = job_store.accept(new_record(asked, tenant=tenant))
    made = compared_report(job, parameters, value, **more)
    finish(job, job_store, storage, FILES | {"report.json": made.model_dump_json().encode()}, made.result)
    return job.id
