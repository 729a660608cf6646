"""The request of a job: model, task, method, target, output."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from service.contract.criteria import Criterion, criteria_in_words, default_criterion, normalisations_in_words
from service.contract.fields import (
    MAX_EVALUATIONS,
    MAX_OBSERVED,
    MAX_RATIO,
    MAX_ROWS,
    MAX_TASKS,
    OWN_TASK,
    Name,
    RowValues,
    Schema,
    SetName,
    Tags,
    Uri,
)
from service.contract.options import (
    Draw,
    ExampleReduction,
    Format,
    Layout,
    Normalisation,
    Objective,
    Repair,
    Scope,
    Sign,
    Supervision,
    TaskKind,
    TokenReduction,
    UnionRule,
    Unit,
)


class ModelSource(Schema):
    uri: Uri = Field(description="hf://owner/name, a file://, s3://, gs:// or az:// directory, or job://<id>")
    revision: Name | None = Field(default=None, description="branch, tag or commit of an hf:// model")
    adapter_uri: Uri | None = Field(default=None, description="PEFT LoRA adapter that is merged before slimming")


class DataSource(Schema):
    """Rows: inline, or a JSON Lines, CSV or Parquet. Once stored, inline rows are a `dataset://` URI."""

    uri: Uri | None = None
    rows: list[RowValues] | None = Field(default=None, min_length=1, max_length=MAX_ROWS)
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


class Method(Schema):
    repair: Repair = Repair.least_squares_layerwise  # before the criterion, whose default follows from it
    criterion: Criterion = Field(
        default_factory=lambda chosen: default_criterion(chosen.get("repair", Repair.none)),
        description=criteria_in_words(),
    )
    units: list[Unit] = Field(default=[Unit.ffn], min_length=1, max_length=len(Unit))
    objective: Objective | None = Field(default=None, description="default: margin; log_probability for generation")
    token_reduction: TokenReduction = TokenReduction.sum
    sign: Sign = Sign.signed
    example_reduction: ExampleReduction = ExampleReduction.square
    scope: Scope = Scope.layer
    normalisation: Normalisation | None = Field(
        default=None,
        description=f"what scores are divided by before a global rank. Default: {normalisations_in_words()}",
    )
    union: UnionRule = Field(default=UnionRule.sum, description="how the scores of several `tasks` become one")
    steps: int = Field(default=1, ge=1, le=100, description="removals, with the scores taken anew before each")
    protect_first: int = Field(
        default=0,
        ge=0,
        description="first layers of a stack that are never removed; with the layout `per_layer` they stay whole",
    )
    protect_last: int = Field(
        default=0,
        ge=0,
        description="last layers of a stack that are never removed; with the layout `per_layer` they stay whole",
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
    layout: Layout = Field(default=Layout.uniform, description="`per_layer` needs the scope `global`")
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
                "`output.layout: per_layer` needs `method.scope: global`: within one layer all keep the same share"
            )
        return self
