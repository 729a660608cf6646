"""The result of a succeeded job: metrics, sizes, widths."""

from typing import Literal

from pydantic import Field

from service.contract.fields import Name, Schema
from service.contract.options import Supervision, Unit


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
