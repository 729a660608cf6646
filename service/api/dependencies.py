"""Dependencies of the route handlers: the clients of the process, the caller and the record of a job."""

from asyncio import to_thread
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, cast

import redis.asyncio
from fastapi import Depends, Path, Query, Request

from service.api.metrics import HttpMetrics
from service.api.readiness import Readiness
from service.contract.errors import Forbidden, NotFound
from service.contract.ids import JOB_ID, ULID_PATTERN
from service.jobs.idempotency import Idempotency
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, decode
from service.jobs.retention import Retention
from service.jobs.store import JobStore
from service.jobs.submission import Submission
from service.planning.time_estimate import Durations
from service.settings import Settings
from service.storage.datasets import Uploads
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ApiKeys, Caller, KeyScope, credential
from service.tenants.origins import is_cross_site, is_rebindable
from service.tenants.rate_limit import RequestLimit, check_request_limit
from service.tenants.signed_links import SignedLink, SignedLinks
from service.tenants.storage_quota import StoredBytes
from service.tenants.stream_limit import StreamLimit
from service.webhooks.delivery import Webhooks
from service.webhooks.signing import WebhookSecrets

Cursor = Annotated[str | None, Query(pattern=f"^{ULID_PATTERN}$", description="`next_cursor` of the previous page")]


class State(TypedDict):
    """The clients and stores of the process, built once by the lifespan of the application."""

    settings: Settings
    async_redis: redis.asyncio.Redis
    stream_limit: StreamLimit
    job_store: JobStore
    queue: JobQueue
    storage: Storage
    keys: ApiKeys
    requests: RequestLimit
    stored: StoredBytes
    uploads: Uploads
    scores: ScoreSets
    durations: Durations
    submission: Submission
    idempotency: Idempotency
    retention: Retention
    signed_links: SignedLinks
    secrets: WebhookSecrets
    webhooks: Webhooks
    metrics: HttpMetrics
    readiness: Readiness


def _state(name: str) -> Any:
    """A dependency on one entry of the state. It is a coroutine because FastAPI runs plain functions in a thread."""

    async def part(request: Request) -> Any:
        return getattr(request.state, name)

    return Depends(part)


SettingsDep = Annotated[Settings, _state("settings")]
AsyncRedisDep = Annotated[redis.asyncio.Redis, _state("async_redis")]
StreamLimitDep = Annotated[StreamLimit, _state("stream_limit")]
JobStoreDep = Annotated[JobStore, _state("job_store")]
QueueDep = Annotated[JobQueue, _state("queue")]
StorageDep = Annotated[Storage, _state("storage")]
StoredDep = Annotated[StoredBytes, _state("stored")]
UploadsDep = Annotated[Uploads, _state("uploads")]
ScoresDep = Annotated[ScoreSets, _state("scores")]
DurationsDep = Annotated[Durations, _state("durations")]
RetentionDep = Annotated[Retention, _state("retention")]
SignedLinksDep = Annotated[SignedLinks, _state("signed_links")]
SecretsDep = Annotated[WebhookSecrets, _state("secrets")]
WebhooksDep = Annotated[Webhooks, _state("webhooks")]
MetricsDep = Annotated[HttpMetrics, _state("metrics")]
ReadinessDep = Annotated[Readiness, _state("readiness")]


# FastAPI takes longer to resolve a dependency than most of these functions take to run, and a change of threads costs
# as much as the rest of a small request. So authentication depends on the request alone, runs once for each request,
# and uses a thread only where it has to read Redis. `service.api.openapi.document` describes the headers that it reads.
def authenticate(request: Request) -> Caller:
    """The caller of a request, by its API key; counts the request for the tenant's rate limit. May read Redis.

    Raises Unauthorized, Forbidden or TooManyRequests.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    keys: ApiKeys = request.state.keys
    caller = keys.authenticate(_credential(request))
    _check_origin(caller, request)
    if caller.key_id is not None:
        window = request.state.requests.count_request(caller.tenant)
        request.state.window = window  # for the rate-limit headers of the response
        check_request_limit(window)
    request.state.caller = caller
    return caller


async def authenticate_async(request: Request) -> Caller:
    """`authenticate` without blocking the event loop."""
    if getattr(request.state, "caller", None) is None:
        trusted = request.state.keys.cached_caller(_credential(request))
        if trusted is None or trusted.key_id is not None:
            return await to_thread(authenticate, request)
    return authenticate(request)


def _credential(request: Request) -> str | None:
    return credential(request.headers.get("authorization"), request.headers.get("x-api-key"))


def _check_origin(caller: Caller, request: Request) -> None:
    host = request.headers.get("host", "")
    if caller.key_id is None and (is_rebindable(host) or is_cross_site(request.headers.get("origin"), host)):
        raise Forbidden(
            "without an API key only requests from localhost are allowed, and none from web pages of another origin"
        )


CallerDep = Annotated[Caller, Depends(authenticate_async)]


def _caller_with_scope(scope: KeyScope) -> Any:
    """A dependency on the caller. Raises Forbidden unless the caller's key has the scope."""

    async def holder(request: Request) -> Caller:
        caller = await authenticate_async(request)
        caller.require(scope)
        return caller

    return Depends(holder)


Reader = Annotated[Caller, _caller_with_scope(KeyScope.jobs_read)]
Writer = Annotated[Caller, _caller_with_scope(KeyScope.jobs_write)]
Downloader = Annotated[Caller, _caller_with_scope(KeyScope.artifacts_read)]
Uploader = Annotated[Caller, _caller_with_scope(KeyScope.datasets_write)]
Administrator = Annotated[Caller, _caller_with_scope(KeyScope.admin)]


JobId = Annotated[str, Path(description="the job's `id`", examples=["01KB3ZJ5T8Q6W2E4R9Y7N1M0PX"])]


def check_id(job_id: str) -> str:
    """The id itself. Raises NotFound where it is not a ULID."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(f"there is no job {job_id!r}")
    return job_id


def job_fields_for(request: Request, scope: KeyScope, job_id: str) -> Mapping[str, str]:
    """The hash of a job in Redis.

    Raises NotFound, and Forbidden unless the caller's key has the scope.
    """
    caller, job_store = authenticate(request), cast(JobStore, request.state.job_store)
    caller.require(scope)
    return job_store.get_fields(caller.tenant, check_id(job_id))


def job_record_for(scope: KeyScope) -> Any:
    """A dependency on the record of the job in the path. Raises as `job_fields_for`."""

    async def record(request: Request, job_id: JobId) -> JobRecord:
        return decode(await to_thread(job_fields_for, request, scope, job_id))

    return Depends(record)


ReadableRecord = Annotated[JobRecord, job_record_for(KeyScope.jobs_read)]
CancellableRecord = Annotated[JobRecord, job_record_for(KeyScope.jobs_cancel)]
ArtifactsRecord = Annotated[JobRecord, job_record_for(KeyScope.artifacts_read)]


def artifact_path(job_id: str, name: str) -> str:
    """The path that the signed link of an artifact is valid for."""
    return f"/jobs/{job_id}/artifacts/{name}"


async def _downloaded_record(
    request: Request,
    job_id: JobId,
    name: str,
    tenant: Annotated[str | None, Query(max_length=63, description="part of a signed link")] = None,
    expires: Annotated[int | None, Query(ge=0, le=2**53, description="part of a signed link")] = None,
    signature: Annotated[str | None, Query(max_length=64, description="part of a signed link")] = None,
) -> JobRecord:
    """The record of the job of a download, for a signed link or a caller with a key."""
    if tenant is not None and expires is not None and signature is not None:
        return await to_thread(_record_by_link, request, SignedLink(tenant, expires, signature), job_id, name)
    return decode(await to_thread(job_fields_for, request, KeyScope.artifacts_read, job_id))


def _record_by_link(request: Request, link: SignedLink, job_id: str, name: str) -> JobRecord:
    request.state.signed_links.check(link, artifact_path(check_id(job_id), name))
    return cast(JobStore, request.state.job_store).get(link.tenant, job_id)


DownloadedRecord = Annotated[JobRecord, Depends(_downloaded_record)]
