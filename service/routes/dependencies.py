"""What handlers ask for by type: the process' clients, the caller, a job's record, the links of a job."""

import re
from asyncio import to_thread
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from urllib.parse import quote

import redis.asyncio
from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from redis import Redis

from service.auth import Caller, Keys, Scope, credential, is_cross_site, is_rebindable
from service.durations import Durations
from service.errors import Forbidden, NotFound
from service.idempotency import Idempotency
from service.job_record import JobRecord
from service.limits import RequestLimit, StoredBytes, admit
from service.metrics import HttpMetrics
from service.queue import JobQueue
from service.records import Records
from service.retention import Retention
from service.routes.preferences import wait_for_end
from service.schemas import Job, Links
from service.scores import ScoreSets
from service.settings import Settings
from service.signing import WebhookSecrets
from service.storage import Storage
from service.submission import Submission
from service.tickets import Ticket, Tickets
from service.uploads import Uploads
from service.webhooks import Webhooks

JOB_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
Cursor = Annotated[
    str | None, Query(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$", description="`next_cursor` of the page before")
]
bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key: `Authorization: Bearer slim_...`")
header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="The same key")


class State(TypedDict):
    """Built once by the lifespan of the application."""

    settings: Settings
    redis: Redis
    follower: redis.asyncio.Redis
    records: Records
    queue: JobQueue
    storage: Storage
    keys: Keys
    requests: RequestLimit
    stored: StoredBytes
    uploads: Uploads
    scores: ScoreSets
    durations: Durations
    submission: Submission
    idempotency: Idempotency
    retention: Retention
    tickets: Tickets
    secrets: WebhookSecrets
    webhooks: Webhooks
    metrics: HttpMetrics


def _state(name: str) -> Any:
    """A dependency that hands out one part of the state; a coroutine, because a plain function costs a thread."""

    async def part(request: Request) -> Any:
        return getattr(request.state, name)

    return Depends(part)


SettingsDep = Annotated[Settings, _state("settings")]
FollowerDep = Annotated[redis.asyncio.Redis, _state("follower")]
RecordsDep = Annotated[Records, _state("records")]
QueueDep = Annotated[JobQueue, _state("queue")]
StorageDep = Annotated[Storage, _state("storage")]
StoredDep = Annotated[StoredBytes, _state("stored")]
UploadsDep = Annotated[Uploads, _state("uploads")]
ScoresDep = Annotated[ScoreSets, _state("scores")]
DurationsDep = Annotated[Durations, _state("durations")]
SubmissionDep = Annotated[Submission, _state("submission")]
IdempotencyDep = Annotated[Idempotency, _state("idempotency")]
RetentionDep = Annotated[Retention, _state("retention")]
TicketsDep = Annotated[Tickets, _state("tickets")]
SecretsDep = Annotated[WebhookSecrets, _state("secrets")]
WebhooksDep = Annotated[Webhooks, _state("webhooks")]
MetricsDep = Annotated[HttpMetrics, _state("metrics")]


# What every request passes takes its part of the state by itself, since FastAPI's resolving of a dependency costs more
# than most of them do, and goes to a thread only where it must ask Redis: on a busy machine a change of threads costs
# as much as the rest of a small request. The schemes are for the OpenAPI document; `credential` reads the headers.
async def _caller(
    request: Request, _bearer: Annotated[object, Security(bearer)], _key: Annotated[object, Security(header)]
) -> Caller:
    keys: Keys = request.state.keys
    text = credential(request.headers.get("authorization"), request.headers.get("x-api-key"))
    caller = keys.trusted(text)
    if caller is None:
        caller = await to_thread(keys.caller, text)
    host = request.headers.get("host", "")
    if caller.key_id is None and (is_rebindable(host) or is_cross_site(request.headers.get("origin"), host)):
        raise Forbidden("without an API key the server answers to localhost and to no web page of another origin")
    if caller.key_id is not None:
        window = await to_thread(request.state.requests.count, caller.tenant)
        request.state.window = window  # for the headers of the answer, whatever it will be
        admit(window)
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]


def _holding(scope: Scope) -> Any:
    """A dependency that is the caller, who holds `scope`."""

    async def holder(caller: CallerDep) -> Caller:
        caller.require(scope)
        return caller

    return Depends(holder)


Reader = Annotated[Caller, _holding(Scope.jobs_read)]
Writer = Annotated[Caller, _holding(Scope.jobs_write)]
Canceller = Annotated[Caller, _holding(Scope.jobs_cancel)]
Downloader = Annotated[Caller, _holding(Scope.artifacts_read)]
Uploader = Annotated[Caller, _holding(Scope.datasets_write)]
Administrator = Annotated[Caller, _holding(Scope.admin)]


async def _job_id(
    job_id: Annotated[str, Path(description="the job's `id`", examples=["01KAEXAMPLE0000000000000000"])],
) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(f"there is no job {job_id!r}")
    return job_id


JobId = Annotated[str, Depends(_job_id)]


async def _record(request: Request, caller: CallerDep, job_id: JobId) -> JobRecord:
    records: Records = request.state.records
    return await to_thread(records.get, caller.tenant, job_id)


FoundRecord = Annotated[JobRecord, Depends(_record)]


def artifact_path(job_id: str, name: str) -> str:
    """What the ticket of an artifact is for."""
    return f"/jobs/{job_id}/artifacts/{name}"


async def _downloaded_record(
    request: Request,
    job_id: JobId,
    name: str,
    records: RecordsDep,
    tickets: TicketsDep,
    bearer: Annotated[object, Security(bearer)],
    header: Annotated[object, Security(header)],
    tenant: Annotated[str | None, Query(max_length=63, description="of a signed link")] = None,
    expires: Annotated[int | None, Query(ge=0, le=2**53, description="of a signed link")] = None,
    signature: Annotated[str | None, Query(max_length=64, description="of a signed link")] = None,
) -> JobRecord:
    """The job whose file is asked for by a signed link, or by a caller with a key."""
    if tenant is not None and expires is not None and signature is not None:
        await to_thread(tickets.check, Ticket(tenant, expires, signature), artifact_path(job_id, name))
        return await to_thread(records.get, tenant, job_id)
    caller = await _caller(request, bearer, header)
    caller.require(Scope.artifacts_read)
    return await to_thread(records.get, caller.tenant, job_id)


DownloadedRecord = Annotated[JobRecord, Depends(_downloaded_record)]


@dataclass(frozen=True)
class Waiter:
    """Waits for the end of a job on behalf of a client."""

    records: Records
    follower: redis.asyncio.Redis

    async def wait(self, record: JobRecord, seconds: int) -> JobRecord:
        """The record once the job is finished, or after so long."""
        await wait_for_end(self.follower, record, seconds)
        return await to_thread(self.records.get, record.tenant, record.id)


async def _waiter(request: Request) -> Waiter:
    return Waiter(request.state.records, request.state.follower)


WaiterDep = Annotated[Waiter, Depends(_waiter)]


class JobLinks:
    """Builds URLs as the client sees the API: SLIM_PUBLIC_URL, else the request's own base."""

    def __init__(self, request: Request, settings: Settings) -> None:
        self._base = (settings.public_url or str(request.base_url)).rstrip("/")

    def job(self, job_id: str) -> str:
        return f"{self._base}/jobs/{job_id}"

    def artifact(self, job_id: str, name: str) -> str:
        return f"{self.job(job_id)}/artifacts/{quote(name)}"

    def dataset(self, dataset_id: str) -> str:
        return f"{self._base}/datasets/{dataset_id}"

    def scores(self, digest: str) -> str:
        """The file of a score set."""
        return f"{self._base}/scores/{digest}/safetensors"

    def render(self, record: JobRecord) -> Job:
        """The job as a client sees it."""
        job = self.job(record.id)
        return record.job(
            Links(
                self=job,
                events=f"{job}/events",
                deliveries=f"{job}/deliveries",
                artifacts=f"{job}/artifacts",
                report=f"{job}/report",
                cancel=f"{job}/cancel",
            )
        )


async def _links(request: Request) -> JobLinks:
    return JobLinks(request, request.state.settings)


LinksDep = Annotated[JobLinks, Depends(_links)]
