"""What the service offers and how it is doing: plans, capabilities, problems, health, version."""

from typing import Literal

from pydantic import BaseModel, Field

from service.contract.criteria import Criterion
from service.contract.fields import Name, Schema
from service.contract.options import Repair, TaskKind, Unit
from service.contract.report import Runtime
from service.contract.result import Widths


class TimeEstimate(Schema):
    """How long the stages of a job may take, judged by the pace of past runs: an estimate, no promise."""

    seconds: float
    runs: int = Field(description="past jobs that it was made from: those of the same family, else all")


class Projected(Schema):
    """A count of the model before, and after as far as it is known without a measurement."""

    dense: int
    slim: int | None


class Plan(Schema):
    """What a request would come to, as far as the model's config and the headers of its weights tell."""

    family: str
    exact: bool = Field(
        description="false where scores decide the widths: then the figures follow from the ratio; or where the target "
        "has to be measured: then they are those of the largest model that it allows, or unknown"
    )
    widths: list[Widths] = Field(description="empty where scores or measurements decide them")
    ratio: float | None = Field(description="share of the chosen units' parameters that would go; null if unknown")
    parameters: Projected
    bytes: Projected = Field(description="of the weights' files")
    cache_bytes_per_token: Projected | None = Field(
        default=None, description="keys and values that a decoder keeps for each token; null for a classifier"
    )
    runtimes: list[Runtime]
    scores_cached: bool | None = Field(
        default=None, description="an earlier job has stored the unit scores that this one needs; null: cannot be told"
    )
    time: TimeEstimate | None = Field(default=None, description="null where no past runs tell")


class Family(Schema):
    model_type: str
    kind: Literal["causal", "encoder_decoder", "classifier"]
    units: list[Unit]
    refused: dict[str, str] = Field(default={}, description="unit -> why this family cannot hold fewer of them")


class Preset(Schema):
    name: str
    kind: TaskKind
    template: str
    labels: dict[Name, Name]
    max_words: int | None = None


class Limits(Schema):
    max_body_bytes: int
    max_ratio: float
    max_rows: int


class Capabilities(Schema):
    version: str
    families: list[Family]
    units: list[Unit]
    criteria: list[Criterion]
    repairs: list[Repair]
    presets: list[Preset]
    limits: Limits


class FieldProblem(Schema):
    param: str
    message: str


class Problem(BaseModel):
    """An RFC 9457 problem document; `code` is stable, `detail` says what to change."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str
    errors: list[FieldProblem] | None = None


class Check(Schema):
    ok: bool
    reason: str | None = None


class Health(Schema):
    ok: bool
    checks: dict[str, Check] = {}
    warnings: list[str] = []


class Version(Schema):
    name: str
    version: str
