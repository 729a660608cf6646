"""Jobs: submit, list, look at, cancel, delete."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response, status
from redis import RedisError

from service.admission import Access, admit
from service.auth import Caller, is_loopback
from service.datasets import drop_rows, keep_rows
from service.errors import Conflict, InvalidRequest
from service.examples import JOBS, REQUESTS
from service.records import new_record
from service.routes.dependencies import (
    Canceller,
    FoundRecord,
    LinksDep,
    QueueDep,
    Reader,
    RecordsDep,
    SettingsDep,
    StorageDep,
    Writer,
)
from service.routes.guards import StrictRoute
from service.routes.problems import problem_responses
from service.schemas import Job, JobPage, JobRequest, JobStatus
from service.settings import Settings
from service.storage import Storage, job_prefix

POLL_SECONDS = "2"

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"], route_class=StrictRoute)

SEE_JOB: dict[str, Any] = {
    name: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for name, operation in (("job", "getJob"), ("events", "listEvents"), ("cancel", "cancelJob"))
}
ACCEPTED = {
    "description": "The job is queued",
    "headers": {
        "Location": {"description": "The job", "schema": {"type": "string", "format": "uri-reference"}},
        "Retry-After": {"description": "Seconds until it is worth asking", "schema": {"type": "integer"}},
    },
    "links": SEE_JOB,
    "content": {"application/json": {"examples": {"queued": {"value": JOBS["queued"]}}}},
}


def access_of(caller: Caller, settings: Settings, storage: Storage) -> Access:
    """Local paths are open to a server that only this machine reaches, otherwise only under the configured roots."""
    trusted = caller.key_id is None and is_loopback(settings.host)
    return Access(storage, caller.tenant, trusted or bool(settings.local_roots), settings.local_roots)


@router.post(
    "/jobs",
    operation_id="createJob",
    summary="Slim a model for a task",
    status_code=status.HTTP_202_ACCEPTED,
    response_description="The job is queued",
    responses={**problem_responses(413), 202: ACCEPTED},
)
def create_job(
    request: Annotated[JobRequest, Body(openapi_examples=REQUESTS)],
    caller: Writer,
    records: RecordsDep,
    queue: QueueDep,
    storage: StorageDep,
    settings: SettingsDep,
    links: LinksDep,
    response: Response,
) -> Job:
    """Queue a job. What can be known from the request, its inline rows and the model's small files is checked first.

    Inline rows are moved to storage and appear as a `dataset://` URI in the job's `request`.
    """
    admit(request, access_of(caller, settings, storage))
    record = new_record(request, tenant=caller.tenant)
    kept = keep_rows(request, tenant=record.tenant, job_id=record.id, storage=storage)
    try:
        record = records.create(record.model_copy(update={"request": kept}))
    except RedisError:
        drop_rows(tenant=record.tenant, job_id=record.id, storage=storage)
        raise
    try:
        queue.enqueue(record)
    except RedisError:  # the record stands: the reconciler finds it without an entry in the queue and makes one
        log.warning("job %s is recorded and not yet in the queue", record.id, exc_info=True)
    response.headers["Location"] = links.job(record.id)
    response.headers["Retry-After"] = POLL_SECONDS
    return links.render(record)


@router.get("/jobs", operation_id="listJobs", summary="List jobs, newest first", responses=problem_responses())
def list_jobs(
    caller: Reader,
    records: RecordsDep,
    links: LinksDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="jobs on a page")] = 20,
    status: Annotated[JobStatus | None, Query(description="only jobs of this status")] = None,
    tag: Annotated[str | None, Query(max_length=321, description="only jobs with this tag, as `key:value`")] = None,
) -> JobPage:
    """The tenant's jobs, a page at a time."""
    key, colon, value = (tag or "").partition(":")
    if tag is not None and not colon:
        raise InvalidRequest("a tag is asked for as `key:value`", param="tag")
    page = records.page(caller.tenant, cursor=cursor, limit=limit, status=status, tag=(key, value) if colon else None)
    data = [links.render(record) for record in page.records]
    return JobPage(data=data, next_cursor=page.next_cursor, has_more=page.next_cursor is not None)


@router.get("/jobs/{job_id}", operation_id="getJob", summary="Look at a job", responses=problem_responses(404))
def get_job(record: FoundRecord, caller: Reader, links: LinksDep, response: Response) -> Job:
    """The job as it is now. While it is not finished, `Retry-After` says when it is worth asking again."""
    if not record.status.is_terminal:
        response.headers["Retry-After"] = POLL_SECONDS
    return links.render(record)


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    status_code=status.HTTP_202_ACCEPTED,
    response_description="The job is cancelling",
    responses={**problem_responses(404), 200: {"model": Job, "description": "The job is finished"}},
)
def cancel_job(
    found: FoundRecord, caller: Canceller, records: RecordsDep, queue: QueueDep, links: LinksDep, response: Response
) -> Job:
    """Ask for the end of a job. A queued one is cancelled at once, a running one within seconds.

    Repeating it is harmless; a finished job stays as it is.
    """
    record = records.cancel(found.tenant, found.id)
    if found.status is JobStatus.queued:
        queue.withdraw(record)
    if record.status.is_terminal:
        response.status_code = 200
    return links.render(record)


@router.delete(
    "/jobs/{job_id}",
    operation_id="deleteJob",
    summary="Delete a finished job and its artifacts",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="The job is gone",
    responses=problem_responses(404, 409),
)
def delete_job(record: FoundRecord, caller: Writer, records: RecordsDep, storage: StorageDep) -> None:
    """Remove the record, the artifacts and the inline rows of a job that is finished."""
    if not record.status.is_terminal:
        raise Conflict(f"the job is {record.status}; cancel it first")
    storage.delete_prefix(job_prefix(record.tenant, record.id))
    drop_rows(tenant=record.tenant, job_id=record.id, storage=storage)
    records.delete(record.tenant, record.id)
