"""What handlers ask for by type: the process' clients, the caller, a job's record, the links of a job."""

import re
from typing import Annotated, TypedDict, cast

import redis.asyncio
from fastapi import Depends, Path, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from redis import Redis

from service.auth import Caller, Keys, Scope, credential
from service.errors import NotFound
from service.queue import JobQueue
from service.records import JobRecord, Records
from service.schemas import Job, Links
from service.settings import Settings
from service.storage import Storage

JOB_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
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


def _settings(request: Request) -> Settings:
    return cast(Settings, request.state.settings)


def _redis(request: Request) -> Redis:
    return cast(Redis, request.state.redis)


def _follower(request: Request) -> redis.asyncio.Redis:
    return cast(redis.asyncio.Redis, request.state.follower)


def _records(request: Request) -> Records:
    return cast(Records, request.state.records)


def _queue(request: Request) -> JobQueue:
    return cast(JobQueue, request.state.queue)


def _storage(request: Request) -> Storage:
    return cast(Storage, request.state.storage)


SettingsDep = Annotated[Settings, Depends(_settings)]
RedisDep = Annotated[Redis, Depends(_redis)]
FollowerDep = Annotated[redis.asyncio.Redis, Depends(_follower)]
RecordsDep = Annotated[Records, Depends(_records)]
QueueDep = Annotated[JobQueue, Depends(_queue)]
StorageDep = Annotated[Storage, Depends(_storage)]


# The two schemes are there for the OpenAPI document; `credential` reads the headers.
def _caller(
    request: Request, _bearer: Annotated[object, Security(bearer)], _key: Annotated[object, Security(header)]
) -> Caller:
    keys = cast(Keys, request.state.keys)
    return keys.caller(credential(request.headers.get("authorization"), request.headers.get("x-api-key")))


CallerDep = Annotated[Caller, Depends(_caller)]


def _reader(caller: CallerDep) -> Caller:
    caller.require(Scope.jobs_read)
    return caller


def _writer(caller: CallerDep) -> Caller:
    caller.require(Scope.jobs_write)
    return caller


def _canceller(caller: CallerDep) -> Caller:
    caller.require(Scope.jobs_cancel)
    return caller


def _downloader(caller: CallerDep) -> Caller:
    caller.require(Scope.artifacts_read)
    return caller


Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
Canceller = Annotated[Caller, Depends(_canceller)]
Downloader = Annotated[Caller, Depends(_downloader)]


def _job_id(
    job_id: Annotated[str, Path(description="the job's `id`", examples=["01KAEXAMPLE0000000000000000"])],
) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(f"there is no job {job_id!r}")
    return job_id


JobId = Annotated[str, Depends(_job_id)]


def _record(job_id: JobId, caller: CallerDep, records: RecordsDep) -> JobRecord:
    return records.get(caller.tenant, job_id)


FoundRecord = Annotated[JobRecord, Depends(_record)]


class JobLinks:
    """Builds URLs as the client sees the API: SLIM_PUBLIC_URL, else the request's own base."""

    def __init__(self, request: Request, settings: SettingsDep) -> None:
        self._base = (settings.public_url or str(request.base_url)).rstrip("/")

    def job(self, job_id: str) -> str:
        return f"{self._base}/jobs/{job_id}"

    def artifact(self, job_id: str, name: str) -> str:
        return f"{self.job(job_id)}/artifacts/{name}"

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


LinksDep = Annotated[JobLinks, Depends(JobLinks)]
