"""The answers of the routes that are not about one job: plans, capabilities, problems, health, version."""

from typing import Literal

from pydantic import BaseModel, Field

from service.contract.answers.report import Dequantised, Runtime
from service.contract.answers.result import Widths
from service.contract.criteria import Criterion
from service.contract.fields import Name, Schema
from service.contract.options import Precision, Repair, TaskKind, Unit


class TimeEstimate(Schema):
    """An estimate of the run time of a job, from the pace of past jobs."""

    seconds: float
    runs: int = Field(
        description="number of past jobs it is computed from: those of the same family, or all if there are none"
    )


class Projected(Schema):
    """A size of the dense and of the slim model. `slim` is null if only a measurement can tell."""

    dense: int
    slim: int | None


class VocabularyRange(Schema):
    """What the unit `vocabulary` can give. Which tokens the texts need is known only to the worker."""

    rows: int = Field(description="rows of the embedding")
    parameters_per_row: int = Field(description="parameters of a row, in the embedding and in a head of its own")
    least_rows: int | None = Field(
        description="rows that stay whatever the texts are: added tokens, and those that any text may be written with; "
        "null where the service has not read the tokenizer"
    )
    most_parameters: int = Field(description="parameters of all rows but those that stay whatever the texts are")


class DeviceMemory(Schema):
    """What a job does on a device with this much memory, if nothing else is on it."""

    device: int = Field(description="bytes of the device's memory")
    holds_weights: bool = Field(description="false: the dense weights are larger than the device's memory")
    scoring_passes: int | None = Field(
        default=None,
        description="passes over the calibration rows that score the units; null where the weights do not fit",
    )
    repair_passes: int | None = Field(
        default=None,
        description="further passes that measure what the repair fits to, in front of a fit layer by layer",
    )
    peak: int | None = Field(
        default=None,
        description="bytes that scoring and repair take at most, estimated within a factor of 2, weights included",
    )


class Memory(Schema):
    """The memory of a job in bytes, computed from the shapes of the dense model."""

    weights: int = Field(description="dense weights in the dtype of the checkpoint, as a GPU holds them")
    cpu_weights: int = Field(
        description="dense weights in float32, in which a CPU computes float16, and bfloat16 where it has no "
        "instructions for it"
    )
    streamed_on_cpu: bool = Field(
        description="whether a worker on a CPU reads the weights from files, layer by layer, where they take more than "
        "half of its free memory; false: they must fit"
    )
    matrices: int = Field(description="second moments that scores and repair need, if all are held at once; 0: none")
    batch: int = Field(description="activations of one batch with SLIM_TOKENS_PER_BATCH tokens; fewer rows take less")
    state_per_token: int = Field(
        description="hidden states that the repair `least_squares_layerwise` holds for each token of the calibration "
        "rows, padding included; 0 for any other repair"
    )
    devices: list[DeviceMemory]


class PlannedPrecision(Schema):
    """Whether the slim model can be stored in a precision of `output.quantise`, asked for or not."""

    precision: Precision
    possible: bool
    group_size: int | None = Field(
        default=None, description="weights of a row that share a scale; null where all of a row do"
    )
    reason: str | None = Field(default=None, description="why not, and what to send instead")


class Plan(Schema):
    """What a job for the request would produce, computed from the model's config and the headers of its weights."""

    family: str
    exact: bool = Field(
        description="false if scores decide the widths: then the figures are computed from the ratio; also if the "
        "target has to be measured: then they are those of the largest model that the target allows, or null"
    )
    widths: list[Widths] = Field(description="empty if scores or measurements decide them")
    ratio: float | None = Field(description="share of the chosen units' parameters that is removed; null if unknown")
    vocabulary: VocabularyRange | None = Field(
        default=None, description="what removing tokens can give; null unless the unit `vocabulary` is asked for"
    )
    parameters: Projected
    bytes: Projected = Field(description="size of the files with the weights")
    dequantised: Dequantised | None = Field(
        default=None, description="what the weights of a quantised model become first; null for any other model"
    )
    cache_bytes_per_token: Projected | None = Field(
        default=None,
        description="size of the keys and values that a decoder caches for each token; null for a classifier",
    )
    memory: Memory
    runtimes: list[Runtime]
    precisions: list[PlannedPrecision] = Field(
        default=[], description="which quantised copies the model and its widths allow"
    )
    scores_cached: bool | None = Field(
        default=None,
        description="whether an earlier job has stored the unit scores that this one needs; null if unknown",
    )
    time: TimeEstimate | None = Field(default=None, description="null without past jobs")


class Family(Schema):
    """A model family that can be slimmed, and which of its units."""

    model_type: str
    kind: Literal["causal", "encoder_decoder", "classifier"]
    classes: list[str] = Field(
        default=[], description="classes of transformers that config.json may name, each with a task head of its own"
    )
    units: list[Unit]
    refused: dict[str, str] = Field(
        default={}, description="unit -> the reason why a model of this family cannot have fewer of them"
    )


class Preset(Schema):
    """A named task: the template and the answer words that a request may refer to."""

    name: str
    kind: TaskKind
    template: str
    labels: dict[Name, Name]
    max_words: int | None = None


class Limits(Schema):
    """The largest request that this deployment takes."""

    max_body_bytes: int
    max_ratio: float
    max_rows: int


class Capabilities(Schema):
    """Everything that a request may name, and the limits of this deployment."""

    version: str
    families: list[Family]
    units: list[Unit]
    criteria: list[Criterion]
    repairs: list[Repair]
    presets: list[Preset]
    limits: Limits


class FieldProblem(Schema):
    """What is wrong with one field of a request; `param` is its dotted path."""

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
    """The state of one dependency, such as Redis or the object store."""

    ok: bool
    reason: str | None = None


class Health(Schema):
    """Whether the service can take requests, and the checks that say so."""

    ok: bool
    checks: dict[str, Check] = {}
    warnings: list[str] = []


class Version(Schema):
    """The name and the version of the service."""

    name: str
    version: str
