"""A job as the API returns it, its attempts and its events."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from service.contract.answers.result import CurvePoint, Result
from service.contract.fields import Schema, Tags
from service.contract.request.job_request import JobRequest


class JobStatus(StrEnum):
    """The status of a job; the last three are final."""

    queued = "queued"
    running = "running"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self in (JobStatus.succeeded, JobStatus.failed, JobStatus.cancelled)


class Stage(StrEnum):
    """The stages of a job, in order."""

    fetch = "fetch"
    load = "load"
    synthesise = "synthesise"  # where `task.synthesis` asks for it
    evaluate_dense = "evaluate_dense"
    attribute = "attribute"
    search = "search"  # in place of the next three, for targets that have to be measured
    select = "select"
    repair = "repair"  # of the dense model: a refit needs the activations of the removed units
    slice = "slice"
    evaluate_slim = "evaluate_slim"
    recover = "recover"  # where `recovery` asks for it
    controls = "controls"  # where `method.controls` asks for them
    verify = "verify"
    export = "export"  # where `output.formats` asks for formats of other runtimes
    quantise = "quantise"  # where `output.quantise` asks for quantised copies
    upload = "upload"


class Progress(Schema):
    """How far a job is."""

    fraction: float = Field(ge=0, le=1, description="share of the whole job; never decreases within an attempt")
    done: int | None = Field(default=None, description="items of the current stage that are done")
    total: int | None = Field(default=None, description="items of the current stage")
    unit: str | None = Field(default=None, description="what `done` and `total` count")
    eta_seconds: float | None = Field(default=None, ge=0, description="estimated time to the end; null: not known yet")


class Shards(Schema):
    """The shards of a job with `method.shards`, before its last part, which adds them up and goes on."""

    done: int = Field(description="shards that have ended")
    of: int = Field(description="all shards")


class JobError(Schema):
    """Why a job failed."""

    code: str = Field(description="stable, for programs; the same codes as in problem documents")
    message: str = Field(description="what is wrong and what to send instead")
    param: str | None = Field(default=None, description="field of the request to change, as a dotted path")
    curve: list[CurvePoint] = Field(default=[], description="the models that were measured where no target was reached")


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    lost = "lost"  # its worker stopped renewing the lease
    handed_back = "handed_back"  # its worker was shut down; another attempt follows


class JobAttempt(Schema):
    """One attempt of a job. The last one may still be running."""

    number: int = Field(description="1 for the first attempt")
    started_at: datetime
    finished_at: datetime | None = None
    outcome: AttemptOutcome | None = None


class Links(Schema):
    """URLs of a job and of what belongs to it."""

    self: str
    events: str
    deliveries: str
    artifacts: str
    report: str
    cancel: str


class Job(Schema):
    """A job: its request, its state, and its result or error once it has ended."""

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    stage: Stage | None = None
    progress: Progress
    shards: Shards | None = Field(default=None, description="null: one worker runs the whole job")
    attempt: int = Field(description="number of the current attempt; 0 until a worker has started the job")
    attempts: list[JobAttempt] = Field(default=[], description="all attempts so far, oldest first")
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = Field(default=None, description="when the ended job will be deleted")
    request: JobRequest = Field(description="the request with its defaults; inline rows are a dataset:// URI")
    tags: Tags
    result: Result | None = None
    error: JobError | None = None
    links: Links


class Event(Schema):
    """A change of a job, in the order in which changes happened."""

    id: str = Field(description="position in the history, for `after` and `Last-Event-ID`")
    type: Literal["status", "stage", "progress", "log"]
    at: datetime
    attempt: int
    data: dict[str, Any]


class JobPage(Schema):
    """A page of jobs, newest first."""

    data: list[Job]
    next_cursor: str | None
    has_more: bool


class EventPage(Schema):
    """A page of a job's events, oldest first."""

    data: list[Event]
    next_cursor: str | None
    has_more: bool
