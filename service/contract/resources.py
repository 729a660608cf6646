"""Data sets, score sets, artifacts and webhooks as the API returns them."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from service.contract.fields import Name, Schema, Tags, Uri
from service.contract.job import JobError, JobStatus
from service.contract.method import Method
from service.contract.request import WebhookEvent
from service.contract.task import ModelSource


class Artifact(Schema):
    name: str = Field(description="a path such as model/config.json")
    size: int
    sha256: str
    url: str


class StoredFile(Schema):
    """A file of an attempt; `name` is its path under the attempt's prefix."""

    name: str
    size: int
    sha256: str


class Manifest(Schema):
    """What the winning attempt left. Written last and only if absent: it is the point of commit."""

    job_id: str
    attempt: int
    files: list[StoredFile]


class Dataset(Schema):
    """Uploaded rows; a task names them by `uri`."""

    id: str
    object: Literal["dataset"] = "dataset"
    uri: str = Field(description="dataset://<id>")
    name: str | None = None
    rows: int
    columns: list[str]
    size: int = Field(description="bytes as stored, JSON Lines")
    sha256: str = Field(description="of the stored bytes")
    created_at: datetime
    expires_at: datetime


class DatasetPage(Schema):
    data: list[Dataset]
    next_cursor: str | None
    has_more: bool


class ScoreKind(StrEnum):
    """What the scores of a set are about."""

    units = "units"  # how important each unit is, along the path of the steps
    rows = "rows"  # the dense model's log-probability of every answer to every evaluation row


class MeasuredScores(Schema):
    """What a job measured and later jobs need not measure again, and everything that it depends on."""

    digest: str = Field(description="of all that the scores depend on; the set's name")
    object: Literal["score_set"] = "score_set"
    kind: ScoreKind
    job_id: str = Field(description="the job that measured them")
    model: ModelSource
    family: str
    task: dict[str, Any] = Field(description="the wording, preset and defaults filled in")
    method: Method | None = Field(default=None, description="null for the scores of rows")
    ratios: list[float] = Field(default=[], description="share that was removed when the scores of a step were taken")
    rows: int = Field(description="that they were measured on")
    digests: dict[str, str] = Field(description="sha256 of the model's files, the adapter's and the rows")
    versions: dict[str, str]
    device: str
    size: int = Field(description="bytes of the safetensors file")
    sha256: str = Field(description="of the safetensors file")
    created_at: datetime


class ScoreSet(MeasuredScores):
    """Stored scores; `url` serves them as safetensors."""

    expires_at: datetime = Field(description="later with each job that uses them")
    url: str


class ScoreSetPage(Schema):
    data: list[ScoreSet]
    next_cursor: str | None
    has_more: bool


class SharedUnits(Schema):
    """Units of one part that two tasks keep."""

    stack: Name
    part: Name = Field(description="kind of unit within a layer, such as cross_heads")
    layer: int | None = Field(default=None, description="null: all layers together")
    kept: int = Field(description="by each task")
    shared: int = Field(description="by both")
    jaccard: float = Field(description="share of the units that one of them keeps which both keep")


class Overlap(Schema):
    """What two tasks have in common."""

    scores: list[str] = Field(description="digests of the two score sets")
    ratio: float = Field(description="share of every group of units that each task removes")
    kept: int = Field(description="units, by each task")
    shared: int = Field(description="units, by both")
    jaccard: float = Field(description="share of the units that one of them keeps which both keep")
    by_chance: float = Field(description="the same of two choices by lot")
    parts: list[SharedUnits]
    layers: list[SharedUnits]


class JobNews(Schema):
    """A job at the moment that a webhook tells of."""

    id: str
    status: JobStatus
    attempt: int
    tags: Tags
    error: JobError | None = None
    url: str = Field(description="the job; relative where the deployment has no public URL")


class WebhookMessage(Schema):
    """The body of a webhook. The headers webhook-id, webhook-timestamp and webhook-signature come with it."""

    type: WebhookEvent
    timestamp: datetime = Field(description="when the job's status changed")
    data: JobNews


class WebhookSecret(Schema):
    """The tenant's signing secret."""

    secret: str = Field(description="whsec_<base64>, as Standard Webhooks libraries take it")


class WebhookUrl(Schema):
    """A receiver of webhooks."""

    url: Uri


class DeliveryOutcome(StrEnum):
    delivered = "delivered"
    retrying = "retrying"
    abandoned = "abandoned"  # the last attempt failed
    refused = "refused"  # an address that must not be called
    disabled = "disabled"  # the receiver answered 410 Gone, now or earlier


class Delivery(Schema):
    """One attempt to deliver a webhook."""

    message_id: str = Field(description="the webhook-id header; the same on every attempt")
    type: WebhookEvent
    at: datetime
    attempt: int
    outcome: DeliveryOutcome
    status: int | None = Field(default=None, description="of the receiver's answer")
    error: str | None = Field(default=None, description="why there was no answer")
    next_at: datetime | None = None


class DeliveryPage(Schema):
    data: list[Delivery]
    next_cursor: str | None = None
    has_more: bool = False


class ArtifactPage(Schema):
    data: list[Artifact]
    next_cursor: str | None = None
    has_more: bool = False
