"""Routes that submit, list, read, cancel and delete jobs."""

from asyncio import to_thread
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Query, Request, Response, status
from redis import RedisError

from service.api.dependencies import (
    CancellableRecord,
    Cursor,
    JobId,
    JobStoreDep,
    QueueDep,
    Reader,
    RetentionDep,
    Writer,
    job_fields_for,
)
from service.api.links import JobLinks, LinksDep, links_of
from service.api.middleware import StrictRoute
from service.api.openapi.examples import JOBS, REQUESTS
from service.api.problems import problem_responses
from service.api.request_headers import (
    IdempotencyKeyHeader,
    IfNoneMatchHeader,
    Moment,
    PreferHeader,
    conditional,
    wait_seconds,
)
from service.api.waiting import waiter_of
from service.contract.answers.job import Job, JobPage, JobStatus
from service.contract.errors import Conflict, TaskslimError, UnreadableRecord
from service.contract.ids import new_id
from service.contract.request.job_request import JobRequest
from service.jobs.idempotency import Claim, Idempotency, StoredResponse, fingerprint_of, parse_key
from service.jobs.record import JobRecord, decode, status_of
from service.jobs.representation import job_json, page_json
from service.jobs.submission import Submission
from service.storage.manifests import delete_job_files
from service.tenants.api_keys import Caller, KeyScope

JSON = "application/json"
POLL = {"Retry-After": "2"}

log = structlog.get_logger()

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

SEE_JOB: dict[str, Any] = {
    name: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
    for name, operation in (("job", "getJob"), ("events", "listEvents"), ("cancel", "cancelJob"))
}
HEADERS = {
    "Location": {"description": "URL of the job", "schema": {"type": "string", "format": "uri-reference"}},
    "Retry-After": {"description": "Seconds after which to ask again", "schema": {"type": "integer"}},
    "Preference-Applied": {"description": "`wait=N`, if the response waited", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true`: this is the response to the first request with the key",
        "schema": {"type": "string"},
    },
}
ACCEPTED = {
    "description": "The job is queued",
    "headers": HEADERS,
    "links": SEE_JOB,
}
WAITED = {
    "model": Job,
    "description": "The job ended within the time of `Prefer: wait`",
    "headers": HEADERS,
    "links": SEE_JOB,
}
ETAG = {"ETag": {"description": "Changes whenever the job changes", "schema": {"type": "string"}}}
FOUND = {
    "description": "The job",
    "headers": ETAG | {"Retry-After": HEADERS["Retry-After"]},
    "content": {JSON: {"examples": {name: {"value": job} for name, job in JOBS.items()}}},
}


@router.post(
    "/jobs",
    operation_id="createJob",
    summary="Slim a model for a task",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Job,
    response_description="The job is queued",
    responses={**problem_responses(409, 413), 200: WAITED, 202: ACCEPTED},
)
async def create_job(
    request: Annotated[JobRequest, Body(openapi_examples=REQUESTS)],
    caller: Writer,
    http: Request,
    idempotency_key: IdempotencyKeyHeader = None,
    prefer: PreferHeader = None,
) -> Response:
    """Queue a job, after a check of the request, its inline rows and the model's config and file headers.

    Inline rows are moved to storage and appear as a `dataset://` URI in the job's `request`. With `Prefer: wait=N` the
    response is the ended job (200) if it ends in that time. A request with an `Idempotency-Key` can be sent again
    without creating a second job.
    """
    links = links_of(http)
    accepted = await to_thread(_accept, http, request, caller, idempotency_key)
    if isinstance(accepted, StoredResponse):
        return _respond(accepted, {"Idempotent-Replayed": "true"})
    record = accepted.record
    answer = _answer(record, links)
    seconds = wait_seconds(prefer)
    if seconds and (waited := await waiter_of(http).wait(record.tenant, record.id, seconds)):
        answer = _answer(decode(waited), links)
        answer.headers["Preference-Applied"] = f"wait={seconds}"
    if accepted.claim.redis_key is not None:
        await to_thread(http.state.idempotency.finish, accepted.claim, answer)
    return _respond(answer)


@dataclass(frozen=True)
class Accepted:
    """A queued job, and the claim on its idempotency key."""

    claim: Claim
    record: JobRecord


def _accept(http: Request, request: JobRequest, caller: Caller, header: str | None) -> Accepted | StoredResponse:
    """Submit the job, or return the answer to an earlier request with the same key. Runs in one thread call."""
    idempotency: Idempotency = http.state.idempotency
    claim: Claim | StoredResponse = Claim(None, new_id())
    if header is not None:
        key, fingerprint = parse_key(header), fingerprint_of(request)
        claim = idempotency.begin(caller.tenant, key, fingerprint, new_id())
    if isinstance(claim, StoredResponse):
        return claim
    return Accepted(claim, _submit(http.state.submission, idempotency, claim, request, caller))


def _submit(
    submission: Submission, idempotency: Idempotency, claim: Claim, request: JobRequest, caller: Caller
) -> JobRecord:
    """Submit the job. A refused request releases its key; after a Redis error a repeat continues with the same job."""
    try:
        return submission.submit(request, caller, claim.job_id)
    except TaskslimError:
        idempotency.release(claim)
        raise
    except RedisError:
        idempotency.reopen(claim)
        raise


def _answer(record: JobRecord, links: JobLinks) -> StoredResponse:
    headers, body = {"Location": links.job(record.id)}, job_json(record, links.of(record.id))
    if record.status.is_terminal:
        return StoredResponse(status=200, headers=headers, body=body)
    return StoredResponse(status=202, headers=headers | POLL, body=body)


def _respond(answer: StoredResponse, more: Mapping[str, str] = MappingProxyType({})) -> Response:
    headers = answer.headers | dict(more)
    return Response(answer.body, answer.status, headers=headers, media_type=JSON)


@router.get(
    "/jobs",
    operation_id="listJobs",
    summary="List jobs, newest first",
    response_model=JobPage,
    responses=problem_responses(),
)
def list_jobs(
    caller: Reader,
    job_store: JobStoreDep,
    links: LinksDep,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=100, description="number of jobs on a page")] = 20,
    status: Annotated[JobStatus | None, Query(description="only jobs with this status")] = None,
    tag: Annotated[
        str | None, Query(max_length=321, pattern="^[^:]*:", description="only jobs with this tag, as `key:value`")
    ] = None,
    created_since: Annotated[Moment | None, Query(description="only jobs created at this time or later")] = None,
    created_before: Annotated[Moment | None, Query(description="only jobs created before this time")] = None,
) -> Response:
    """A page of the tenant's jobs."""
    key, colon, value = (tag or "").partition(":")
    page = job_store.page(
        caller.tenant,
        cursor=cursor,
        limit=limit,
        status=status,
        tag=(key, value) if colon else None,
        since=created_since,
        before=created_before,
    )
    jobs = [job_json(record, links.of(record.id)) for record in page.records]
    return Response(page_json(jobs, page.next_cursor), media_type=JSON)


@router.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Read a job",
    response_model=Job,
    responses={
        **problem_responses(404, 409),
        200: FOUND,
        304: {"description": "The job has not changed", "headers": ETAG},
    },
)
async def get_job(
    request: Request, job_id: JobId, if_none_match: IfNoneMatchHeader = None, prefer: PreferHeader = None
) -> Response:
    """The current state of the job. Until it ends, `Retry-After` says after how many seconds to ask again.

    With `Prefer: wait=N` the response comes when the job has ended, or after N seconds.
    """
    # Clients poll this route, so it uses no FastAPI dependency and builds no model of the job.
    fields = await to_thread(job_fields_for, request, KeyScope.jobs_read, job_id)
    headers = {}
    if (seconds := wait_seconds(prefer)) and not status_of(fields).is_terminal:
        waited = await waiter_of(request).wait(request.state.caller.tenant, job_id, seconds)
        if waited is not None:
            fields, headers["Preference-Applied"] = waited, f"wait={seconds}"
    if not status_of(fields).is_terminal:
        headers |= POLL
    return conditional(job_json(fields, links_of(request).of(job_id)), headers, if_none_match)


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelJob",
    summary="Cancel a job",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=Job,
    response_description="The running job is being cancelled",
    responses={
        **problem_responses(404, 409),
        200: {"model": Job, "description": "The job has ended"},
        202: {"links": {"job": SEE_JOB["job"]}},
    },
)
def cancel_job(
    record: CancellableRecord,
    job_store: JobStoreDep,
    queue: QueueDep,
    retention: RetentionDep,
    links: LinksDep,
) -> Response:
    """Cancel a queued job at once, or a running one within seconds. A job that has ended does not change."""
    cancelled = job_store.cancel(record.tenant, record.id)
    if record.status is JobStatus.queued:
        queue.remove(cancelled)
        if cancelled.status is JobStatus.cancelled and cancelled.attempt:
            delete_job_files(retention.storage, cancelled.tenant, cancelled.id)
    status_code = 200 if cancelled.status.is_terminal else 202
    return Response(job_json(cancelled, links.of(cancelled.id)), status_code, media_type=JSON)


@router.delete(
    "/jobs/{job_id}",
    operation_id="deleteJob",
    summary="Delete an ended job and its artifacts",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="The job is deleted",
    responses=problem_responses(404, 409),
)
def delete_job(request: Request, job_id: JobId, queue: QueueDep, retention: RetentionDep) -> None:
    """Delete the record, the artifacts and the inline rows of a job that has ended.

    A job whose record cannot be read is deleted in any status, unless a worker is running it.
    """
    fields = job_fields_for(request, KeyScope.jobs_write, job_id)
    try:
        retention.delete_job(decode(fields))
    except UnreadableRecord as error:
        if queue.is_started(job_id):
            raise Conflict(
                "a worker is running the job, whose record cannot be read: delete the job after that has ended"
            ) from error
        tenant = request.state.caller.tenant
        retention.forget_job(tenant, job_id)
        log.warning("job deleted whose record could not be read", tenant=tenant, job_id=job_id)
