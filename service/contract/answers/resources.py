"""Artifacts, data sets, score sets, overlaps and webhook deliveries as the API returns them."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from service.contract.answers.job import JobError, JobStatus
from service.contract.fields import Name, Schema, Tags, Uri
from service.contract.request.job_request import WebhookEvent
from service.contract.request.method import Method
from service.contract.request.task import ModelSource


class Artifact(Schema):
    """A file of a succeeded job."""

    name: str = Field(description="path such as model/config.json")
    size: int = Field(description="bytes")
    sha256: str
    url: str = Field(description="where the file is downloaded")


class StoredFile(Schema):
    """A file in the object store; `name` is its path under the prefix of the attempt."""

    name: str
    size: int
    sha256: str


class Manifest(Schema):
    """The files of the attempt that succeeded.

    The manifest is written last and only if there is none, so that exactly one attempt can commit its files.
    """

    job_id: str
    attempt: int
    files: list[StoredFile]


class Dataset(Schema):
    """Uploaded rows. A task refers to them by `uri`."""

    id: str
    object: Literal["dataset"] = "dataset"
    uri: str = Field(description="dataset://<id>")
    name: str | None = Field(default=None, description="as given at the upload")
    rows: int
    columns: list[str]
    size: int = Field(description="bytes of the stored JSON Lines file")
    sha256: str = Field(description="of the stored file")
    created_at: datetime
    expires_at: datetime


class DatasetPage(Schema):
    """A page of data sets, newest first."""

    data: list[Dataset]
    next_cursor: str | None
    has_more: bool


class ScoreKind(StrEnum):
    """What a score set holds."""

    units = "units"  # the importance of each unit, at each step
    rows = "rows"  # the dense model's log-probability of every answer to every evaluation row


class MeasuredScores(Schema):
    """Scores that a job has computed, with everything that they depend on. Later jobs use them again."""

    digest: str = Field(description="of everything that the scores depend on; identifies the set")
    object: Literal["score_set"] = "score_set"
    kind: ScoreKind
    job_id: str = Field(description="job that computed them")
    model: ModelSource
    family: str
    task: dict[str, Any] = Field(description="the task with the fields of its preset and its defaults")
    method: Method | None = Field(default=None, description="null for scores of the kind `rows`")
    ratios: list[float] = Field(
        default=[], description="for each step: share that was removed before its scores were computed"
    )
    rows: int = Field(description="rows that they were computed on")
    digests: dict[str, str] = Field(description="SHA-256 of the files of the model, of the adapter and of the rows")
    versions: dict[str, str] = Field(description="package -> version that computed them")
    device: str = Field(description="type of the device that computed them, such as cuda")
    size: int = Field(description="bytes of the safetensors file")
    sha256: str = Field(description="of the safetensors file")
    created_at: datetime


class ScoreSet(MeasuredScores):
    """A score set as the API returns it."""

    expires_at: datetime = Field(description="when the set will be deleted; each job that uses it extends the time")
    url: str = Field(description="where the safetensors file is downloaded")


class ScoreSetPage(Schema):
    """A page of score sets, newest first."""

    data: list[ScoreSet]
    next_cursor: str | None
    has_more: bool


class SharedUnits(Schema):
    """How many units of one part of the model two tasks both keep."""

    stack: Name
    part: Name = Field(description="group of units within a layer, such as cross_heads")
    layer: int | None = Field(default=None, description="null: all layers")
    kept: int = Field(description="units that each task keeps")
    shared: int = Field(description="units that both keep")
    jaccard: float = Field(description="Jaccard index: units that both keep, divided by units that at least one keeps")


class Overlap(Schema):
    """How many units two tasks both keep, by their score sets."""

    scores: list[str] = Field(description="digests of the two score sets")
    ratio: float = Field(description="share of each group of units that each task removes")
    kept: int = Field(description="units that each task keeps")
    shared: int = Field(description="units that both keep")
    jaccard: float = Field(description="Jaccard index: units that both keep, divided by units that at least one keeps")
    by_chance: float = Field(description="expected Jaccard index of two random choices")
    parts: list[SharedUnits]
    layers: list[SharedUnits]


class JobNews(Schema):
    """The job in a webhook message, as it was when its status changed."""

    id: str
    status: JobStatus
    attempt: int
    tags: Tags
    error: JobError | None = None
    url: str = Field(description="URL of the job; a path where the deployment has no public URL")


class WebhookMessage(Schema):
    """The body of a webhook message. Its headers are webhook-id, webhook-timestamp and webhook-signature."""

    type: WebhookEvent
    timestamp: datetime = Field(description="when the job's status changed")
    data: JobNews


class WebhookSecret(Schema):
    """The secret that signs the tenant's webhook messages."""

    secret: str = Field(description="whsec_<base64>, the form of Standard Webhooks libraries")


class WebhookUrl(Schema):
    """The URL of a webhook receiver."""

    url: Uri


class DeliveryOutcome(StrEnum):
    """How an attempt to deliver a webhook message ended."""

    delivered = "delivered"
    retrying = "retrying"  # another attempt follows
    abandoned = "abandoned"  # the last attempt failed
    refused = "refused"  # the address is not public and not allowed
    disabled = "disabled"  # the receiver answered 410 Gone to this message or to an earlier one


class Delivery(Schema):
    """One attempt to deliver a webhook message."""

    message_id: str = Field(description="the webhook-id header; the same for every attempt")
    type: WebhookEvent
    at: datetime
    attempt: int = Field(description="1 for the first attempt to deliver the message")
    outcome: DeliveryOutcome
    status: int | None = Field(default=None, description="HTTP status of the receiver's response")
    error: str | None = Field(default=None, description="why there was no response")
    next_at: datetime | None = Field(default=None, description="time of the next attempt")


class DeliveryPage(Schema):
    """The attempts to deliver a job's webhook messages, oldest first."""

    data: list[Delivery]
    next_cursor: str | None = None
    has_more: bool = False


class ArtifactPage(Schema):
    """The files of a job."""

    data: list[Artifact]
    next_cursor: str | None = None
    has_more: bool = False
