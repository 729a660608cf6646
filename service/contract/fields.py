"""The contract: what a client sends, what it gets back, and what both sides of the queue agree on.

pydantic only. A name here is the name everywhere: in the API, the code, the Redis keys, the logs and the tests.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_ROWS = 100_000  # inline in one request
MAX_RATIO = 0.95
EVALUATION_SHARE = 5  # one calibration row in five is set aside where a task names no evaluation rows
MAX_TASKS = 16
MAX_OBSERVED = 16
MAX_EVALUATIONS = 16
OWN_TASK = "own-task"  # the title of one that has neither name nor preset
Uri = Annotated[str, Field(min_length=1, max_length=2048)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Tag = Annotated[str, Field(max_length=256)]
Tags = Annotated[dict[Annotated[str, Field(max_length=64)], Tag], Field(max_length=16)]
# A row is whatever the template and the label need; other columns of a file are ignored.
Number = Annotated[float, Field(allow_inf_nan=False)]
Row = dict[str, str | int | Number | bool | None]


class Schema(BaseModel):
    """Unknown fields are refused: a typing mistake in a request must never be silently dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __deepcopy__(self, memo: object = None) -> Self:
        """Itself: nothing changes it. pydantic would copy each default anew, field by field, for every request."""
        return self


# --- the request ---------------------------------------------------------------------------------------------------


class TaskKind(StrEnum):
    classification = "classification"
    generation = "generation"


class Criterion(StrEnum):
    """How important a unit is; h is what it hands on, m the objective. The lowest go.

    surgeon: what the best fit of the others cannot make up for when the unit goes, times how much m minds it.
    attribution: h · ∂m/∂h, reduced over tokens and then over rows; second_moment: one setting of it, the sum over all
    tokens of its square; reverse: attribution with the opposite sign, a control. gisp: the sum over the unit's weights
    of |w · ∂m/∂w|. activation: the mean of |h|. wanda: the norm of h times the mean size of the weights that read it.
    flap: the variance of h times the square norm of those weights, standardised by layer. magnitude: the norm of the
    unit's weights. random: drawn by `seed`.
    """

    attribution = "attribution"
    surgeon = "surgeon"
    second_moment = "second_moment"
    activation = "activation"
    wanda = "wanda"
    flap = "flap"
    gisp = "gisp"
    magnitude = "magnitude"
    random = "random"
    reverse = "reverse"


class Unit(StrEnum):
    """What is removed as a whole."""

    ffn = "ffn"  # feed-forward neurons
    heads = "heads"  # attention heads; with grouped queries, whole key-value groups
    head_dims = "head_dims"  # dimensions of every head, as many in each
    layers = "layers"  # whole blocks


class Objective(StrEnum):
    """The scalar of an example whose gradient attribution takes."""

    probability = "probability"  # sum over the answer's tokens of P(token)
    sequence_probability = "sequence_probability"  # P(answer), the product over its tokens
    log_probability = "log_probability"  # log P(answer)
    margin = "margin"  # log P(right label) - max over wrong labels of log P(label)


class TokenReduction(StrEnum):
    """How the activation-times-gradient products of an example's tokens become one number."""

    sum = "sum"
    mean = "mean"
    max = "max"
    square = "square"  # sum of squares


class Sign(StrEnum):
    """Whether products that push against the answer count as negative or by their size."""

    signed = "signed"
    absolute = "absolute"


class ExampleReduction(StrEnum):
    """How the numbers of all examples become a unit's score."""

    sum = "sum"
    square = "square"  # mean of squares


class Repair(StrEnum):
    """What the kept units do for those that go, without training."""

    none = "none"
    bias = "bias"  # the mean of what goes, folded into a bias where the family's stock config can hold one
    least_squares = "least_squares"  # re-fit of the reading matrices, all from the dense activations
    least_squares_layerwise = "least_squares_layerwise"  # then layer by layer, to make up for the layers before


FITTED = (Repair.least_squares, Repair.least_squares_layerwise)  # fit the weights of what stays anew


class Scope(StrEnum):
    """Which units are ranked against each other."""

    layer = "layer"  # those of one layer: every layer gives up the same share
    all = "global"  # all, by score per parameter: kinds of units share one budget


class Supervision(StrEnum):
    """Where the right answers of the calibration rows come from."""

    labels = "labels"  # the rows
    none = "none"  # the dense model: what it answers


class Draw(StrEnum):
    """How rows are drawn from a data set."""

    natural = "natural"  # every row is as likely as any other
    balanced = "balanced"  # as many of each label as of any other, or one more


class UnionRule(StrEnum):
    """How the scores of several tasks, each on one scale, become one."""

    sum = "sum"  # what is of most use to all together stays
    max = "max"  # what any one of them needs stays


class Normalisation(StrEnum):
    """What the scores of each layer and kind of unit are divided by before a global rank."""

    none = "none"
    mean = "mean"
    standard = "standard"  # minus the mean, by the standard deviation


class Layout(StrEnum):
    """How widths may differ from layer to layer in the checkpoint."""

    uniform = "uniform"  # every layer of a stack keeps the same width, which is all that stock runtimes load
    per_layer = "per-layer"  # each keeps its own, for a class that lies in the checkpoint


class Format(StrEnum):
    """What a job leaves of the slim model."""

    safetensors = "safetensors"  # the checkpoint
    indices = "indices"  # what `taskslim apply` makes the checkpoint of, with the base model; kilobytes


class ModelSource(Schema):
    uri: Uri = Field(description="hf://owner/name, a file://, s3://, gs:// or az:// directory, or job://<id>")
    revision: Name | None = Field(default=None, description="branch, tag or commit of an hf:// model")
    adapter_uri: Uri | None = Field(default=None, description="PEFT LoRA adapter that is merged before slimming")


class DataSource(Schema):
    """Rows: inline, or a JSON Lines, CSV or Parquet. Once stored, inline rows are a `dataset://` URI."""

    uri: Uri | None = None
    rows: list[Row] | None = Field(default=None, min_length=1, max_length=MAX_ROWS)
    limit: int | None = Field(default=None, gt=0, description="use this many rows, drawn by `seed`")
    seed: int = Field(default=0, ge=0, lt=2**32)
    draw: Draw = Field(default=Draw.natural, description="`balanced`: as many rows of each label, or one more")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.uri is None) == (self.rows is None):
            raise ValueError("give exactly one of `uri` and `rows`")
        return self


class TaskWording(Schema):
    """How a model is asked to do a task. Fields given beside a preset override it."""

    name: Name | None = Field(default=None, description="what results call it; absent: the preset")
    preset: Name | None = None
    kind: TaskKind | None = None
    template: str | None = Field(default=None, min_length=1, max_length=20_000, description="with {column} fields")
    labels: dict[Name, Name] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="label in the rows -> answer word; with a classification head: -> class name",
    )
    max_words: int | None = Field(default=None, gt=0, description="cut every field of a row to its first words")
    special_tokens: bool | None = Field(default=None, description="let the tokenizer add its special tokens")
    label_prefix: str | None = Field(default=None, max_length=16, description="answer = prefix + label word")

    @property
    def title(self) -> str:
        """What the task is called."""
        return self.name or self.preset or OWN_TASK


class Task(TaskWording):
    """What the model must still be able to do."""

    supervision: Supervision = Field(
        default=Supervision.labels, description="`none`: the dense model's own answers to the calibration rows"
    )
    confidence: float | None = Field(
        default=None, gt=0, lt=1, description="own answers less likely than this are left out; only without supervision"
    )
    calibration: DataSource
    evaluation: DataSource | None = Field(
        default=None, description="absent: a stratified fifth of the calibration rows is set aside"
    )
    evaluations: dict[SetName, DataSource] = Field(
        default={}, max_length=MAX_EVALUATIONS, description="further rows with the same labels, as of another domain"
    )

    @model_validator(mode="after")
    def _own_answers_need_no_labels(self) -> Self:
        if self.confidence is not None and self.supervision is not Supervision.none:
            raise ValueError("`confidence` is of the model's own answers: it needs `supervision: none`")
        if self.supervision is Supervision.none and self.calibration.draw is Draw.balanced:
            raise ValueError("`supervision: none` reads no labels to draw `balanced` calibration rows by")
        return self

    @model_validator(mode="after")
    def _balance_needs_labels(self) -> Self:
        drawn = [source.draw for source in (self.calibration, self.evaluation, *self.evaluations.values()) if source]
        if self.kind is TaskKind.generation and Draw.balanced in drawn:
            raise ValueError("a generation task has no labels to draw `balanced` rows by")
        return self


class ObservedTask(TaskWording):
    """A task that the model is not slimmed for: measured before and after, so that what was given up is seen."""

    evaluation: DataSource


def _suited_to_the_repair(chosen: dict[str, Any]) -> Criterion:
    """The criterion that keeps most beside a repair (benchmarks/RESULTS.md): `surgeon` counts on a fit."""
    return Criterion.surgeon if chosen.get("repair") in FITTED else Criterion.attribution


class Method(Schema):
    repair: Repair = Repair.least_squares_layerwise  # before the criterion, whose default follows from it
    criterion: Criterion = Field(
        default_factory=_suited_to_the_repair,
        description="default: surgeon; attribution with the repairs none and bias, which fit nothing anew",
    )
    units: list[Unit] = Field(default=[Unit.ffn], min_length=1, max_length=len(Unit))
    objective: Objective | None = Field(default=None, description="default: margin; log_probability for generation")
    token_reduction: TokenReduction = TokenReduction.sum
    sign: Sign = Sign.signed
    example_reduction: ExampleReduction = ExampleReduction.square
    scope: Scope = Scope.layer
    normalisation: Normalisation | None = Field(
        default=None,
        description="default: by the criterion, whose scale may say nothing across layers and kinds of units: "
        "standard for flap; mean for wanda, activation, magnitude and random; none for the others",
    )
    union: UnionRule = Field(default=UnionRule.sum, description="how the scores of several `tasks` become one")
    steps: int = Field(default=1, ge=1, le=100, description="removals, with the scores taken anew before each")
    protect_first: int = Field(
        default=0, ge=0, description="first layers of a stack that are never removed; per-layer: whole"
    )
    protect_last: int = Field(
        default=0, ge=0, description="last layers of a stack that are never removed; per-layer: whole"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="of the criterion random, and of the first of the three random controls"
    )
    controls: bool = Field(default=False, description="measure what random and reversed scores would have kept")

    @model_validator(mode="after")
    def _each_unit_once(self) -> Self:
        if len(set(self.units)) != len(self.units):
            raise ValueError("`units` names one of them twice")
        return self

    @model_validator(mode="after")
    def _one_share_for_all_needs_units_apart(self) -> Self:
        units = set(self.units)
        nested = (len(units) > 1 and Unit.layers in units) or units >= {Unit.heads, Unit.head_dims}
        if nested and self.scope is Scope.layer:
            raise ValueError(
                "of these `units` one holds parameters of another, and the same share of each is more than the ratio: "
                "ask for `scope: global`, where they share one budget"
            )
        return self


class LatencyBound(Schema):
    """The longest that a forward pass may take: its median on the worker's device."""

    value: float = Field(gt=0, allow_inf_nan=False, description="milliseconds")
    batch: int = Field(default=1, gt=0, le=256, description="rows of the pass")
    tokens: int = Field(default=64, gt=0, le=8192, description="of each row")


def _latency_bound(value: Any) -> Any:
    return {"value": value} if isinstance(value, int | float) else value


def _or_a_number(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "number", "exclusiveMinimum": 0})


Ratio = Annotated[float, Field(gt=0, le=MAX_RATIO)]


class Target(Schema):
    """How small: one of the fields, or `keep_metric` beside `parameters`, `bytes` or `latency_ms`, and then both hold.

    `artifacts` goes with `sweep`.
    """

    ratio: Ratio | None = Field(default=None, description="share of the chosen units' parameters to remove")
    parameters: int | None = Field(default=None, gt=0, description="the largest model with no more parameters")
    bytes: int | None = Field(default=None, gt=0, description="the largest model whose weights' files are no larger")
    latency_ms: Annotated[LatencyBound, BeforeValidator(_latency_bound)] | None = Field(
        default=None,
        description="the largest model that is as fast, measured on the worker's device; or just the milliseconds",
        json_schema_extra=_or_a_number,
    )
    keep_metric: float | None = Field(
        default=None, gt=0, le=1, description="the smallest model that keeps this share of the dense model's metric"
    )
    sweep: list[Ratio] | None = Field(
        default=None, min_length=1, max_length=32, description="measure a model at each of these ratios"
    )
    artifacts: list[Ratio] = Field(
        default=[], max_length=32, description="ratios of the sweep whose checkpoints are stored; empty: the highest"
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = {
            name
            for name in ("ratio", "parameters", "bytes", "latency_ms", "keep_metric", "sweep")
            if getattr(self, name) is not None
        }
        bounds = given & {"parameters", "bytes", "latency_ms"}
        if len(given) != 1 and not (len(bounds) == 1 and given == bounds | {"keep_metric"}):
            raise ValueError(
                "give one of `ratio`, `parameters`, `bytes`, `latency_ms`, `keep_metric` and `sweep`, or `keep_metric` "
                "with one of `parameters`, `bytes` and `latency_ms`"
            )
        return self

    @model_validator(mode="after")
    def _artifacts_are_of_the_sweep(self) -> Self:
        if not set(self.artifacts) <= set(self.sweep or ()):
            raise ValueError("`artifacts` names a ratio that `sweep` does not")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether models have to be cut and measured before it is known which one meets it."""
        return self.keep_metric is not None or self.latency_ms is not None or self.sweep is not None


class Output(Schema):
    round_to: int = Field(default=64, gt=0, le=4096, description="kept widths are multiples of this")
    layout: Layout = Field(default=Layout.uniform, description="`per-layer` needs the scope `global`")
    formats: list[Format] = Field(
        default=[Format.safetensors], min_length=1, max_length=len(Format), description="`indices` hold no repair"
    )


class WebhookEvent(StrEnum):
    job_running = "job.running"
    job_succeeded = "job.succeeded"
    job_failed = "job.failed"
    job_cancelled = "job.cancelled"


ENDINGS = [WebhookEvent.job_succeeded, WebhookEvent.job_failed, WebhookEvent.job_cancelled]


class Webhook(Schema):
    """Where to send news of the job, signed with the tenant's secret (Standard Webhooks 1.0.0)."""

    url: Uri = Field(description="https; a public address unless the deployment allows the host")
    events: list[WebhookEvent] = Field(default=ENDINGS, min_length=1, max_length=len(WebhookEvent))


class Priority(StrEnum):
    """Which of the waiting jobs go first; equals go in the order in which they came."""

    high = "high"
    normal = "normal"
    low = "low"


class JobRequest(Schema):
    model: ModelSource
    task: Task | None = Field(default=None, description="what the model must still be able to do")
    tasks: list[Task] = Field(
        default=[], max_length=MAX_TASKS, description="in place of `task`: several, all of which it must still do"
    )
    observe: list[ObservedTask] = Field(
        default=[], max_length=MAX_OBSERVED, description="tasks to measure before and after, beside the job's own"
    )
    method: Method = Method()
    target: Target
    output: Output = Output()
    tags: Tags = {}
    webhook: Webhook | None = None
    priority: Priority = Priority.normal
    retention_days: float | None = Field(
        default=None,
        gt=0,
        le=3650,
        description="until the finished job is deleted, and the scores that it used; null: what the deployment sets",
    )
    deadline_seconds: int = Field(
        default=3600,
        ge=10,
        le=7 * 86400,
        description="seconds from the job's first start, not from its submission, until it fails if it is not finished",
    )

    @property
    def placed_tasks(self) -> dict[str, Task]:
        """Where in the request a task stands that the model is slimmed for -> the task."""
        return {"task": self.task} if self.task else {f"tasks.{index}": task for index, task in enumerate(self.tasks)}

    @property
    def slimmed_for(self) -> list[Task]:
        """The task, or the tasks of a union."""
        return list(self.placed_tasks.values())

    @property
    def title(self) -> str:
        """What the task is called, or the tasks together."""
        return " + ".join(task.title for task in self.slimmed_for)

    @model_validator(mode="after")
    def _one_task_or_several(self) -> Self:
        if (self.task is None) == (not self.tasks) or len(self.tasks) == 1:
            raise ValueError("give `task`, or `tasks` with at least two entries")
        return self

    @model_validator(mode="after")
    def _tasks_are_told_apart(self) -> Self:
        for name, listed in (("tasks", self.tasks), ("observe", self.observe)):
            titles = [task.title for task in listed]
            if len(set(titles)) != len(titles):
                raise ValueError(f"two entries of `{name}` are called the same: give them a `name`")
        return self

    @model_validator(mode="after")
    def _a_union_is_scored_once_and_by_labels(self) -> Self:
        if not self.tasks:
            return self
        if self.method.steps > 1:
            raise ValueError("with `tasks` each task is scored on the whole model: `method.steps` must be 1")
        if self.target.keep_metric is not None or self.target.sweep is not None:
            raise ValueError("`keep_metric` and `sweep` judge models by one task: with `tasks` give another target")
        if self.method.controls:
            raise ValueError("`method.controls` are judged by one task: leave them out with `tasks`")
        for task in self.tasks:
            if task.supervision is Supervision.none or task.evaluations:
                raise ValueError("an entry of `tasks` takes neither `supervision: none` nor `evaluations`")
        return self

    @model_validator(mode="after")
    def _indices_hold_no_repair(self) -> Self:
        if Format.indices in self.output.formats and self.method.repair is not Repair.none:
            raise ValueError(
                "`output.formats: indices` cannot hold the weights that `method.repair` changes: ask for `safetensors` "
                "alone, or for the repair `none`"
            )
        return self

    @model_validator(mode="after")
    def _own_widths_need_one_rank(self) -> Self:
        if self.output.layout is Layout.per_layer and self.method.scope is not Scope.all:
            raise ValueError(
                "`output.layout: per-layer` needs `method.scope: global`: within one layer all keep the same share"
            )
        return self


# --- the job -------------------------------------------------------------------------------------------------------


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


class Estimate(Schema):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


class Metrics(Schema):
    """Of one model on the evaluation rows. Classification has the first four, generation the last two."""

    examples: int
    judged_by: Supervision = Field(
        default=Supervision.labels, description="`none`: the rows have no labels; agreement with the dense model"
    )
    accuracy: Estimate | None = Field(default=None, description="arg max over the labels' log-probabilities")
    calibrated_accuracy: Estimate | None = Field(
        default=None, description="the same after subtracting each label's mean log-probability over these rows"
    )
    majority: float | None = Field(default=None, description="share of the most frequent label")
    log_likelihood: float | None = Field(default=None, description="mean log-probability of the right answer")
    exact_match: Estimate | None = None
    token_log_likelihood: float | None = Field(default=None, description="mean over the target's tokens")
    repetition: float | None = Field(default=None, description="share of generated answers that repeat themselves")

    @property
    def headline(self) -> Estimate | None:
        """The figure that sums a model up: calibrated accuracy, or the share of exact matches."""
        return self.calibrated_accuracy or self.accuracy or self.exact_match


class DenseSlim(Schema):
    """A count of the model before and after."""

    dense: int
    slim: int


class Latency(Schema):
    """Median time of one forward pass on the worker's device, dense and slim in turn, milliseconds."""

    dense: float
    slim: float
    batch: int
    tokens: int
    runs: int
    device: str


class Verified(Schema):
    """The checkpoint was reloaded in a fresh process and compared with the model in memory."""

    loader: str = Field(description="the class that loaded it")
    max_abs_logit_difference: float
    tolerance: float
    dtype: str


class MetricsPair(Schema):
    """Of both models on the same rows."""

    dense: Metrics
    slim: Metrics


class Control(Schema):
    """The same cut by other scores, judged on the same rows."""

    ratio: float = Field(description="share of the chosen units' parameters that it removes")
    metrics: Metrics


class Controls(Schema):
    """What any choice of units keeps, and what a bad one does."""

    random: list[Control] = Field(description="by random scores, three seeds")
    random_mean: dict[str, float] = Field(description="metric -> its mean over the seeds")
    reverse: Control = Field(description="by the job's own scores, the highest removed")
    per_layer: Control | None = Field(
        default=None,
        description="by the job's own scores, each layer with a width of its own; null where there is none",
    )


class JobMetrics(MetricsPair):
    """With several tasks, `dense` and `slim` are over the rows of all of them."""

    controls: Controls | None = Field(default=None, description="where `method.controls` asked for them")
    tasks: dict[str, MetricsPair] = Field(default={}, description="of each task of a union, by name")
    evaluations: dict[str, MetricsPair] = Field(default={}, description="on the task's further rows, by name")
    observed: dict[str, MetricsPair] = Field(default={}, description="of the tasks that were observed, by name")


class Widths(Schema):
    """Units in every layer of one stack; where layers keep different numbers, their mean."""

    stack: Name
    unit: Unit
    dense: int
    slim: int
    per_layer: list[int] | None = Field(default=None, description="what each layer keeps, where they differ")


class CurvePoint(Schema):
    """A model that a sweep or a search has looked at."""

    ratio: float = Field(description="share of the chosen units' parameters that it lacks")
    parameters: int
    bytes: int = Field(description="of its weights' files")
    examples: int | None = Field(default=None, description="evaluation rows that it was judged on")
    metric: Estimate | None = Field(default=None, description="on those rows")
    share: Estimate | None = Field(default=None, description="of the dense model's metric on them, paired by row")
    latency_ms: float | None = Field(default=None, description="median forward pass, for a target of latency")
    meets: bool | None = Field(default=None, description="whether it met what was searched for; null in a sweep")
    artifact: str | None = Field(default=None, description="where its checkpoint lies, such as model-0.3")


class KeptMetric(Schema):
    """How much of the dense metric a search has kept: by the rows that steered it, and by rows that it never saw."""

    metric: Literal["calibrated_accuracy", "token_probability"] = Field(
        description="token_probability: the geometric mean of the probabilities of the targets' tokens"
    )
    floor: float = Field(description="`target.keep_metric`")
    steering_examples: int
    steering: Estimate
    reported_examples: int
    reported: Estimate
    seed: int = Field(description="of the split, which has every label on both sides in proportion")


class Result(Schema):
    metrics: JobMetrics
    parameters: DenseSlim
    bytes: DenseSlim
    latency_ms: Latency
    widths: list[Widths]
    ratio: float = Field(description="share of the chosen units' parameters that was removed in fact")
    verified: Verified
    scores: str | None = Field(default=None, description="digest of the unit scores, see `GET /scores/{digest}`")
    task_scores: dict[str, str] = Field(
        default={}, description="of a union: task -> digest of its unit scores, as `GET /overlap` takes them"
    )
    scores_reused: bool = Field(default=False, description="an earlier job or attempt had measured the unit scores")
    evaluation_reused: bool = Field(
        default=False, description="an earlier job, or attempt, had evaluated the dense model"
    )
    curve: list[CurvePoint] = Field(default=[], description="every model that a sweep or a search has measured")
    kept_metric: KeptMetric | None = Field(default=None, description="for the target `keep_metric`")


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


class JobPage(Schema):
    data: list[Job]
    next_cursor: str | None
    has_more: bool


class EventPage(Schema):
    data: list[Event]
    next_cursor: str | None
    has_more: bool


class ArtifactPage(Schema):
    data: list[Artifact]
    next_cursor: str | None = None
    has_more: bool = False


# --- the report ----------------------------------------------------------------------------------------------------


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


# --- the plan ------------------------------------------------------------------------------------------------------


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


# --- the catalogue and the problem document --------------------------------------------------------------------------


class Family(Schema):
    model_type: str
    kind: Literal["causal", "encoder-decoder", "classifier"]
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
