"""All that is known of a job, and its form in Redis: a hash, with JSON for what is nested and a field for each attempt.

Records are read and changed by `service.jobs.store`.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from pydantic import Field
from pydantic_core import from_json, to_json
from ulid import ULID

from service.contract.errors import UnreadableRecord
from service.contract.fields import Schema, Tags
from service.contract.job import Job, JobAttempt, JobError, JobStatus, Links, Progress, Stage
from service.contract.request import JobRequest
from service.contract.result import Result

DEFAULT_TENANT = "default"
ATTEMPT = "attempt:"  # begins the name of the field of each attempt
JSON_FIELDS = ("request", "progress", "result", "error")
TIMES = ("created_at", "started_at", "finished_at", "expires_at")
PUBLIC = tuple(name for name in Job.model_fields if name not in ("object", "links"))
EPOCH = datetime.fromtimestamp(0, UTC)


class JobRecord(Schema):
    """All that is known of a job: the public `Job`, and what only the service needs."""

    id: str
    tenant: str
    status: JobStatus = JobStatus.queued
    stage: Stage | None = None
    progress: Progress = Progress(fraction=0)
    attempt: int = 0
    attempts: list[JobAttempt] = Field(default_factory=list)
    lost: int = Field(default=0, description="attempts whose worker died")
    request_id: str | None = Field(default=None, description="of the request that made the job, for the logs")
    trace: str | None = Field(default=None, description="traceparent of the same request, for its trace")
    worker: str | None = Field(default=None, description="who holds the lease, or held the last one")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    request: JobRequest
    result: Result | None = None
    error: JobError | None = None

    @property
    def token(self) -> int:
        """The fencing token that a write must carry."""
        return self.attempt

    @property
    def log_fields(self) -> dict[str, str | int]:
        """What each log line about the job says: which it is, whose, at which attempt, made by which request."""
        made_by = {"request_id": self.request_id} if self.request_id else {}
        return {"job_id": self.id, "tenant": self.tenant, "attempt": self.attempt, **made_by}

    @property
    def tags(self) -> Tags:
        return self.request.tags

    def job(self, links: Links) -> Job:
        """What a client sees."""
        return Job(**{name: getattr(self, name) for name in PUBLIC}, links=links)


def new_record(request: JobRequest, *, tenant: str = DEFAULT_TENANT, job_id: str | None = None) -> JobRecord:
    """A queued record, by default with a fresh ULID. Inline rows must have been moved to storage before."""
    return JobRecord(id=job_id or str(ULID()), tenant=tenant, created_at=datetime.now(UTC), request=request)


def encode(record: JobRecord) -> dict[str, Any]:
    """A new record as a hash; what is null has no field, nor has what Redis adds: times and attempts."""
    fields = record.model_dump(mode="json", exclude={*JSON_FIELDS, *TIMES, "attempts"}, exclude_none=True)
    nested = {name: getattr(record, name) for name in JSON_FIELDS}
    return fields | {name: value.model_dump_json() for name, value in nested.items() if value is not None}


def decode(fields: Mapping[str, str]) -> JobRecord:
    """The record in a hash. Raises UnreadableRecord."""
    try:
        nested = {name: json.loads(value) for name, value in fields.items() if name in JSON_FIELDS}
        attempts = [json.loads(value) for name, value in fields.items() if name.startswith(ATTEMPT)]
        flat = {name: value for name, value in fields.items() if value and not name.startswith(ATTEMPT)}
        return JobRecord.model_validate(flat | nested | {"attempts": sorted(attempts, key=itemgetter("number"))})
    except (ValueError, TypeError, KeyError) as error:  # not JSON, not an attempt, not what the schema says
        raise _unreadable(fields) from error


def status_of(fields: Mapping[str, str]) -> JobStatus:
    """The status in a hash. Raises UnreadableRecord."""
    try:
        return JobStatus(fields["status"])
    except (ValueError, KeyError) as error:
        raise _unreadable(fields) from error


def _unreadable(fields: Mapping[str, str]) -> UnreadableRecord:
    name = fields.get("id", "without an id")
    return UnreadableRecord(
        f"the record of job {name} is damaged or of another version; delete the job to be rid of it"
    )


def as_json(fields: Mapping[str, str], links: Links) -> str:
    """`decode(fields).job(links)` as JSON text, for those who ask again and again.

    What is nested lies in the hash as the JSON that was written after validation, so it is put in place and not
    validated and written anew. A field that a later version added to it is absent. Raises UnreadableRecord.
    """
    try:
        nested = {"request": fields["request"], "progress": fields["progress"]}
        nested |= {name: fields.get(name) or "null" for name in ("result", "error")}
        read = {name: from_json(text) for name, text in nested.items()}
        flat = {
            "id": fields["id"],
            "object": "job",
            "status": fields["status"],
            "stage": fields.get("stage") or None,
            "attempt": int(fields["attempt"]),
            "attempts": _attempts(fields),
            **{name: _moment(fields.get(name)) for name in TIMES},
            "tags": read["request"]["tags"],
            "links": links,
        }
        text = to_json(flat).decode()
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(fields) from error
    return text[:-1] + "".join([f',"{name}":{value}' for name, value in nested.items()]) + "}"


def _attempts(fields: Mapping[str, str]) -> list[dict[str, Any]]:
    found = [from_json(value) for name, value in fields.items() if name.startswith(ATTEMPT)]
    return [
        {
            "number": attempt["number"],
            "started_at": _moment(attempt["started_at"]),
            "finished_at": _moment(attempt.get("finished_at")),
            "outcome": attempt.get("outcome"),
        }
        for attempt in sorted(found, key=itemgetter("number"))
    ]


def _moment(milliseconds: str | int | None) -> datetime | None:
    """Redis' milliseconds, which pydantic writes as RFC 3339 does."""
    return EPOCH + timedelta(milliseconds=int(milliseconds)) if milliseconds else None
