"""The report of a succeeded job."""

from typing import Any, Literal

from pydantic import Field

from service.contract.answers.job import Stage
from service.contract.answers.result import DenseSlim, Result, Widths
from service.contract.fields import Name, Schema
from service.contract.options import DropReason, Format, Unit
from service.contract.request.job_request import JobRequest


class StageTiming(Schema):
    """How long a stage took."""

    stage: Stage
    seconds: float


class Throughput(Schema):
    """Examples per second in forward passes of one size, on the worker's device."""

    batch: int = Field(description="rows of a pass")
    tokens: int = Field(description="tokens of each row")
    dense: float = Field(description="examples per second of the dense model")
    slim: float = Field(description="examples per second of the slim model")
    dense_ms: float | None = Field(default=None, description="milliseconds of one pass of the dense model")
    slim_ms: float | None = Field(default=None, description="milliseconds of one pass of the slim model")
    peak_memory_bytes: DenseSlim | None = Field(
        default=None,
        description="peak memory of one pass: weights, activations and key-value cache. On a GPU as the allocator "
        "counts it (`torch.cuda.max_memory_allocated`); on a CPU the bytes of all tensors that are alive at the same "
        "time, in a pass that is not timed. The process needs more, for its interpreter and libraries",
    )


class Runtime(Schema):
    """Whether a runtime loads the checkpoint or another format of the model, and which features its widths allow."""

    name: str
    loads: bool
    reason: str | None = Field(
        default=None, description="why it does not load the checkpoint, or how it does and what it leaves out"
    )
    export: Format | None = Field(
        default=None, description="format in `output.formats` whose files it loads in place of the checkpoint"
    )
    quantisations: list[str] = Field(default=[], description="quantisations that the widths allow")
    tensor_parallel: list[int] = Field(
        default=[], description="numbers of devices that the widths can be divided among"
    )


class LayerWidth(Schema):
    """How many units one layer keeps."""

    stack: Name
    layer: int
    unit: Unit
    part: Name = Field(description="group of units within the layer, such as cross_heads")
    dense: int
    slim: int
    score_kept: float | None = Field(
        default=None,
        description="share of the sum of the layer's scores that the kept units have; null where scores are negative",
    )
    experts_without_tokens: int | None = Field(
        default=None,
        description="of the part `expert_ffn`: experts whose neurons all have the score 0, because no calibration "
        "token is sent there",
    )


class Confusion(Schema):
    """Confusion matrices: evaluation rows by right label (row of the matrix) and answer of the model (column)."""

    labels: list[str]
    dense: list[list[int]]
    slim: list[list[int]]


class ChangedAnswer(Schema):
    """An evaluation row that the two models answer differently."""

    task: str | None = Field(default=None, description="title of the task, where the model is slimmed for several")
    line: int = Field(description="line in the file of rows; the number of the row in Parquet")
    fields: dict[str, str] = Field(
        description="columns of the template -> value, cut where it is long; of a conversation: role -> last message "
        "before the answer"
    )
    right: str
    others: list[str] = Field(default=[], description="further right texts of a generation task")
    dense: str
    slim: str


class ReportWarning(Schema):
    """A limitation of the result; `code` is stable."""

    code: str
    message: str


class OwnAnswers(Schema):
    """The dense model's answers to the calibration rows, used as labels."""

    given: dict[str, int] = Field(description="label -> number of rows with that answer; empty without labels")
    left_out: int = Field(description="number of rows whose answer has a lower probability than `task.confidence`")


class Written(Schema):
    """Texts that a language model wrote, and what became of them."""

    written: int
    kept: int
    dropped: dict[DropReason, int] = Field(default={}, description="reason -> number of texts")


class Synthesised(Schema):
    """Rows and rationales that a language model wrote from the calibration rows of a task."""

    writer: str = Field(description="URI of the model that wrote them")
    chat: bool = Field(description="whether it was asked by its chat template")
    given: int = Field(description="calibration rows that they were written from")
    rows: Written | None = Field(default=None, description="null where no rows were asked for")
    labels: dict[str, int] = Field(default={}, description="label -> written rows that were kept; empty without labels")
    rationales: Written | None = Field(default=None, description="null where no rationales were asked for")


class Dequantised(Schema):
    """How the weights of a quantised checkpoint were stored, and what they became before anything was measured."""

    format: str = Field(description="format of the files, such as FP8")
    dtype: str = Field(description="dtype of the dequantised weights, and of the slim model")
    bytes: int = Field(description="size of the weights in that dtype, as one file")


class Decoding(Schema):
    """How a model generates its answers. The checkpoint's generation_config.json has no effect but for its end tokens.

    The answers are the same with `GenerationConfig()` in place of the model's own and these numbers in the call of
    `generate`.
    """

    strategy: Literal["greedy"] = Field(default="greedy", description="each token is the most probable one")
    end_tokens: list[int] = Field(
        description="a text ends with one of them: the end token of the tokenizer and those of the generation config"
    )
    opening_tokens: list[int] = Field(
        default=[], description="tokens that the decoder of an encoder-decoder starts with"
    )
    max_new_tokens: int = Field(description="most tokens of an answer: as many as the longest target has")


class Ancestor(Schema):
    """An earlier job, whose slim model this job or a later ancestor has slimmed again."""

    job_id: str
    model: str = Field(description="URI of the model that it slimmed")
    revision: str | None = Field(default=None, description="revision of that model, as requested")
    adapter_uri: str | None = Field(default=None, description="adapter that it merged into the model")
    task: str | None = Field(default=None, description="title of its task")
    ratio: float = Field(description="share of the chosen units' parameters that it removed")
    parameters: DenseSlim
    widths: list[Widths]


class ReadTokens(Schema):
    """In how many tokens both models read the evaluation rows, where the slim one has fewer tokens to choose from."""

    rows: int
    longer_rows: int = Field(description="rows that have more tokens for the slim model")
    dense: int = Field(description="tokens of all prompts for the dense model")
    slim: int = Field(description="tokens of all prompts for the slim model")


class Report(Schema):
    """What is needed to judge the result of a job and to reproduce it."""

    job_id: str
    attempt: int
    request: JobRequest
    task: dict[str, Any] = Field(description="the task with the fields of its preset and its defaults")
    tasks: dict[str, dict[str, Any]] = Field(
        default={}, description="with several tasks: title -> the task in the same form"
    )
    family: str
    model_class: str = Field(default="", description="class of transformers that the dense model was loaded with")
    result: Result
    options: dict[str, Any] = Field(description="options of the criterion that were used")
    calibration_examples: int = Field(description="number of calibration rows of all tasks")
    own_answers: OwnAnswers | None = Field(default=None, description="null where the labels of the rows were used")
    decoding: Decoding | None = Field(
        default=None,
        description="how answers were generated; null for a classification task",
    )
    synthesis: dict[str, Synthesised] = Field(
        default={}, description="title of a task -> the rows that `task.synthesis` added to its calibration rows"
    )
    dequantised: Dequantised | None = Field(
        default=None, description="what the weights of a quantised model became; null for any other model"
    )
    stored_dtype: str | None = Field(default=None, description="dtype of the weights in the checkpoints")
    rounded_dtypes: list[str] = Field(
        default=[],
        description="dtypes of tensors in the model's files whose numbers `stored_dtype` cannot hold exactly",
    )
    computed_dtype: str | None = Field(default=None, description="dtype in which the worker computed")
    streamed: bool = Field(
        default=False,
        description="whether the weights were larger than half of the worker's free memory and were read from files, "
        "layer by layer",
    )
    written_special_tokens: list[str] = Field(
        default=[], description="special tokens that the template has itself, so that the tokenizer's are not added"
    )
    shortened_prompts: int = Field(description="number of prompts that were cut to the model's maximum length")
    read_tokens: ReadTokens | None = Field(
        default=None, description="tokens of the evaluation rows; null unless the unit `vocabulary` was removed"
    )
    timings: list[StageTiming]
    versions: dict[str, str] = Field(description="package -> version that ran the job")
    digests: dict[str, str] = Field(description="SHA-256 of the model's files, the rows and the template")
    lineage: list[Ancestor] = Field(default=[], description="earlier jobs that slimmed the model, oldest first")
    snippet: str = Field(
        description="Python code that loads the slim model and, where that takes a few lines, runs the task"
    )
    warnings: list[ReportWarning] = []
    runtimes: list[Runtime] = Field(
        default=[], description="which runtimes load the checkpoint, by their lists of architectures"
    )
    throughput: list[Throughput] = []
    peak_memory_bytes: DenseSlim | None = Field(
        default=None,
        description="peak memory of the pass with the largest batch, see `throughput`; null in older reports of a CPU",
    )
    layers: list[LayerWidth] = []
    confusion: Confusion | None = Field(default=None, description="null for tasks without a single label")
    num_changed: int = Field(
        default=0, description="number of evaluation rows that the two models answer differently; 0 for a regression"
    )
    changed: list[ChangedAnswer] = Field(default=[], description="the first of those rows")
