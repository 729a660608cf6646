"""The report of a finished job."""

from typing import Any

from pydantic import Field

from service.contract.fields import Name, Schema
from service.contract.job import Stage
from service.contract.options import Unit
from service.contract.request import JobRequest
from service.contract.result import DenseSlim, Result, Widths


class StageTiming(Schema):
    stage: Stage
    seconds: float


class Throughput(Schema):
    """Examples a second in forward passes of one size, on the worker's device."""

    batch: int
    tokens: int
    dense: float
    slim: float
    dense_ms: float | None = Field(default=None, description="milliseconds of one pass")
    slim_ms: float | None = None
    peak_memory_bytes: DenseSlim | None = Field(
        default=None,
        description="the most that one pass holds at once: the weights, activations and the key-value cache. On a GPU "
        "by the allocator's count (`torch.cuda.max_memory_allocated`); on a CPU the bytes of all tensors that are "
        "alive at once, in a pass that is not timed. A process takes more, by its interpreter and libraries",
    )


class Runtime(Schema):
    """Whether a runtime loads what was made, or would be, and what its widths allow there."""

    name: str
    loads: bool
    reason: str | None = Field(default=None, description="why it does not load it, or what its widths rule out")
    quantisations: list[str] = []
    tensor_parallel: list[int] = Field(default=[], description="numbers of devices that the widths can be split over")


class LayerWidth(Schema):
    """What one layer keeps."""

    stack: Name
    layer: int
    unit: Unit
    part: Name = Field(description="which of the layer's groups of that unit, such as cross_heads; `ffn` has one")
    dense: int
    slim: int
    score_kept: float | None = Field(
        default=None, description="share of the layer's scores that the kept units hold; null where scores are negative"
    )


class Confusion(Schema):
    """Evaluation rows by right label (row of the matrix) and the model's answer (column)."""

    labels: list[str]
    dense: list[list[int]]
    slim: list[list[int]]


class ChangedAnswer(Schema):
    """An evaluation row that the slim model answers otherwise than the dense one."""

    task: str | None = Field(default=None, description="which one of a union")
    line: int = Field(description="in the file of rows")
    fields: dict[str, str] = Field(description="the template's columns, long ones shortened")
    right: str
    dense: str
    slim: str


class ReportWarning(Schema):
    """What a reader must not overlook; `code` is stable."""

    code: str
    message: str


class OwnAnswers(Schema):
    """The dense model's own answers to the calibration rows, in place of labels."""

    given: dict[str, int] = Field(description="label -> rows that it was the answer to; empty for generation")
    left_out: int = Field(description="rows whose answer is less likely than `task.confidence`")


class Ancestor(Schema):
    """A job whose slim model came before."""

    job_id: str
    model: str = Field(description="the URI of the model that it slimmed")
    revision: str | None = Field(default=None, description="of that model, as the job named it")
    adapter_uri: str | None = Field(default=None, description="the adapter that the job merged into it")
    task: str | None = Field(default=None, description="its name or preset")
    ratio: float = Field(description="share of its chosen units' parameters that it removed")
    parameters: DenseSlim
    widths: list[Widths]


class Report(Schema):
    """Everything that a reader needs in order to trust the result, or to do it again."""

    job_id: str
    attempt: int
    request: JobRequest
    task: dict[str, Any] = Field(description="the task as it was run, preset and defaults filled in")
    tasks: dict[str, dict[str, Any]] = Field(default={}, description="the same of every task of a union, by name")
    family: str
    result: Result
    options: dict[str, Any] = Field(description="the criterion's options that were in force")
    calibration_examples: int = Field(description="of all tasks")
    own_answers: OwnAnswers | None = Field(default=None, description="null where the rows' labels were used")
    shortened_prompts: int = Field(description="prompts that lost words because the model allows no more tokens")
    timings: list[StageTiming]
    versions: dict[str, str]
    digests: dict[str, str] = Field(description="sha256 of the model's files, the rows and the template")
    lineage: list[Ancestor] = Field(default=[], description="jobs that slimmed the model before, the first one first")
    snippet: str = Field(description="Python that loads the slim model and, where a few lines can, asks it the task")
    warnings: list[ReportWarning] = []
    runtimes: list[Runtime] = Field(default=[], description="which of them load the checkpoint, by their own lists")
    throughput: list[Throughput] = []
    peak_memory_bytes: DenseSlim | None = Field(
        default=None, description="of the pass with the largest batch, see `throughput`; null in older reports of a CPU"
    )
    layers: list[LayerWidth] = []
    confusion: Confusion | None = Field(default=None, description="null for a generation task")
    num_changed: int = Field(default=0, description="evaluation rows whose answer changed")
    changed: list[ChangedAnswer] = Field(default=[], description="the first of them")
