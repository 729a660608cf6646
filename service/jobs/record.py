"""The record of a job, and its form in Redis: a hash with JSON for nested values and one field for each attempt.

`service.jobs.store` reads and changes records.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from pydantic import Field

from service.contract.answers.job import JobAttempt, JobError, JobStatus, Progress, Shards, Stage
from service.contract.answers.result import Result
from service.contract.errors import UnreadableRecord
from service.contract.fields import Schema, Tags
from service.contract.ids import DEFAULT_TENANT, new_id
from service.contract.request.job_request import JobRequest

ATTEMPT = "attempt:"  # prefix of the fields of attempts
SHARD = "shard:"  # prefix of the fields of shards, which have been started
SUMMING = "summing:"  # prefix of the field of an attempt whose last job, which adds up the shards, has started
PREFIXES = (ATTEMPT, SHARD, SUMMING)
JSON_FIELDS = ("request", "progress", "result", "error")
TIMES = ("created_at", "started_at", "finished_at", "expires_at")
EPOCH = datetime.fromtimestamp(0, UTC)


class ShardProgress(Schema):
    """How far one shard of a job is; it stays done in later attempts."""

    fraction: float = Field(default=0.0, description="share of the whole job that is done if all shards are as far")
    done: bool = False


class JobRecord(Schema):
    """The public `Job`, and what only the service needs."""

    id: str
    tenant: str
    status: JobStatus = JobStatus.queued
    stage: Stage | None = None
    progress: Progress = Progress(fraction=0)
    attempt: int = 0
    attempts: list[JobAttempt] = Field(default_factory=list)
    shard_progress: dict[int, ShardProgress] = Field(default_factory=dict, description="those that have been started")
    summing: list[int] = Field(default_factory=list, description="attempts whose last job has started")
    lost: int = Field(default=0, description="attempts that were lost: their worker died, or the queue lost the RQ job")
    request_id: str | None = Field(default=None, description="id of the HTTP request that created the job")
    trace: str | None = Field(default=None, description="traceparent of the same HTTP request")
    worker: str | None = Field(default=None, description="the worker that holds the lease, or held the last one")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    request: JobRequest
    result: Result | None = None
    error: JobError | None = None

    @property
    def log_fields(self) -> dict[str, str | int]:
        """The fields of each log line about the job."""
        made_by = {"request_id": self.request_id} if self.request_id else {}
        return {"job_id": self.id, "tenant": self.tenant, "attempt": self.attempt, **made_by}

    @property
    def shards(self) -> Shards | None:
        """How many shards are done; None of a job that one worker runs."""
        of = self.request.method.shards
        return None if of == 1 else Shards(done=of - len(self.open_shards), of=of)

    @property
    def open_shards(self) -> list[int]:
        """The shards that are not done; none of a job that one worker runs."""
        count = self.request.method.shards
        return [] if count == 1 else [number for number in range(count) if not self._is_done(number)]

    def _is_done(self, number: int) -> bool:
        return number in self.shard_progress and self.shard_progress[number].done

    @property
    def is_in_shards(self) -> bool:
        """Whether a started job has several processes or none: its shards are not done, or are yet to be added up."""
        is_started = self.status in (JobStatus.running, JobStatus.cancelling)
        return is_started and self.request.method.shards > 1 and self.attempt not in self.summing

    @property
    def tags(self) -> Tags:
        """The tags of the job's request."""
        return self.request.tags


def new_record(request: JobRequest, *, tenant: str = DEFAULT_TENANT, job_id: str | None = None) -> JobRecord:
    """A queued record, by default with a fresh id. Inline rows must have been moved to storage before."""
    return JobRecord(id=job_id or new_id(), tenant=tenant, created_at=datetime.now(UTC), request=request)


def encode(record: JobRecord) -> dict[str, Any]:
    """The hash of a new record, without the times and attempts, which Redis adds. A null value has no field."""
    separate = {*JSON_FIELDS, *TIMES, "attempts", "shard_progress", "summing"}
    fields = record.model_dump(mode="json", exclude=separate, exclude_none=True)
    nested = {name: getattr(record, name) for name in JSON_FIELDS}
    return fields | {name: value.model_dump_json() for name, value in nested.items() if value is not None}


def encode_whole(record: JobRecord) -> dict[str, str]:
    """The hash of a record that has been in Redis, with its times and attempts: the reverse of `decode`."""
    times = {name: _milliseconds(value) for name in TIMES if (value := getattr(record, name))}
    attempts = {f"{ATTEMPT}{attempt.number}": json.dumps(_encode_attempt(attempt)) for attempt in record.attempts}
    shards = {f"{SHARD}{number}": shard.model_dump_json() for number, shard in record.shard_progress.items()}
    summing = {f"{SUMMING}{attempt}": "1" for attempt in record.summing}
    return {name: str(value) for name, value in (encode(record) | times | attempts | shards | summing).items()}


def _encode_attempt(attempt: JobAttempt) -> dict[str, Any]:
    times = {name: _milliseconds(value) for name in TIMES if (value := getattr(attempt, name, None))}
    return {"number": attempt.number, **times, **({"outcome": attempt.outcome} if attempt.outcome else {})}


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def decode(fields: Mapping[str, str]) -> JobRecord:
    """The record of a hash. Raises UnreadableRecord."""
    try:
        nested = {name: json.loads(value) for name, value in fields.items() if name in JSON_FIELDS}
        attempts = [json.loads(value) for name, value in fields.items() if name.startswith(ATTEMPT)]
        separate = {
            "attempts": sorted(attempts, key=itemgetter("number")),
            "shard_progress": decode_shards(fields),
            "summing": [name.removeprefix(SUMMING) for name in fields if name.startswith(SUMMING)],
        }
        flat = {name: value for name, value in fields.items() if value and not name.startswith(PREFIXES)}
        return JobRecord.model_validate(flat | nested | separate)
    except (ValueError, TypeError, KeyError) as error:  # not JSON, not an attempt, not what the schema says
        raise unreadable(fields) from error


def decode_shards(fields: Mapping[str, str]) -> dict[str, Any]:
    """Number -> JSON of each shard that has been started."""
    return {name.removeprefix(SHARD): json.loads(value) for name, value in fields.items() if name.startswith(SHARD)}


def status_of(fields: Mapping[str, str]) -> JobStatus:
    """The status of a hash. Raises UnreadableRecord."""
    try:
        return JobStatus(fields["status"])
    except (ValueError, KeyError) as error:
        raise unreadable(fields) from error


def unreadable(fields: Mapping[str, str]) -> UnreadableRecord:
    """The error for a hash that is not a record of this version."""
    name = fields.get("id", "without an id")
    return UnreadableRecord(
        f"the record of job {name} is damaged or was written by another version; delete the job to remove it"
    )
