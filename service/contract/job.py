"""The job as the API returns it, its attempts and its events."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from service.contract.fields import Schema, Tags
from service.contract.request import JobRequest
from service.contract.result import CurvePoint, Result


class JobStatus(StrEnum):
    queued = "queued"
    running = "running"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled)


class Stage(StrEnum):
    """The stages of a job, in order."""

    fetch = "fetch"
    load = "load"
    evaluate_dense = "evaluate_dense"
    attribute = "attribute"
    search = "search"  # for targets that have to be measured, in place of the next three
    select = "select"
    repair = "repair"  # of the whole model: what is fitted needs the units that go
    slice = "slice"
    evaluate_slim = "evaluate_slim"
    controls = "controls"  # where they are asked for
    verify = "verify"
    upload = "upload"


class Progress(Schema):
    fraction: float = Field(ge=0, le=1, description="of the whole job; never falls within an attempt")
    done: int | None = None
    total: int | None = None
    unit: str | None = Field(default=None, description="what `done` and `total` count in the present stage")
    eta_seconds: float | None = Field(default=None, ge=0, description="null until there is something to judge by")


class JobError(Schema):
    code: str
    message: str
    param: str | None = None
    curve: list[CurvePoint] = Field(default=[], description="what was measured, where a target was not reached")


class AttemptOutcome(StrEnum):
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"  # its worker fell silent
    handed_back = "handed_back"  # its worker was told to stop


class JobAttempt(Schema):
    """One attempt of a job; the last one may still be running."""

    number: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: AttemptOutcome | None = None


class Links(Schema):
    self: str
    events: str
    deliveries: str
    artifacts: str
    report: str
    cancel: str


class Job(Schema):
    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    stage: Stage | None = None
    progress: Progress
    attempt: int = Field(description="0 until a worker has taken the job")
    attempts: list[JobAttempt] = Field(default=[], description="every attempt so far, the first one first")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = Field(default=None, description="when the finished job will be deleted")
    request: JobRequest
    tags: Tags
    result: Result | None = None
    error: JobError | None = None
    links: Links


class Event(Schema):
    """One line of a job's history. `id` is what `Last-Event-ID` takes."""

    id: str
    type: Literal["status", "stage", "progress", "log"]
    at: datetime
    attempt: int
    data: dict[str, Any]


class JobPage(Schema):
    data: list[Job]
    next_cursor: str | None
    has_more: bool


class EventPage(Schema):
    data: list[Event]
    next_cursor: str | None
    has_more: bool
