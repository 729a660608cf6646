"""The result of a succeeded job: metrics, sizes, widths."""

from enum import StrEnum

from pydantic import Field

from service.contract.fields import Name, Schema
from service.contract.options import Collapse, Format, Precision, Supervision, TaskMetric, Unit


class Estimate(Schema):
    """A metric with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Metrics(Schema):
    """Metrics of one model on the evaluation rows; null where the metric does not apply to the kind of task."""

    examples: int = Field(description="evaluation rows")
    judged_by: Supervision = Field(
        default=Supervision.labels,
        description="`none`: the rows have no labels, so metrics are agreement with the dense model",
    )
    metric: TaskMetric | None = Field(
        default=None, description="`task.metric`; null over several tasks with different metrics"
    )
    value: Estimate = Field(
        description="the metric of the answers that the model gives as it is shipped: with its label offsets, where it "
        "has them; over several tasks with different metrics their mean"
    )
    raw: Estimate | None = Field(default=None, description="the same metric without label offsets; null without labels")
    label_offsets: dict[str, float] = Field(
        default={},
        description="label -> what is added to its log-probability before the most likely label is taken, or to the "
        "output of its class where several labels are right; empty for "
        "tasks without labels, for a model without offsets, and over several tasks",
    )
    constant: float | None = Field(
        default=None,
        description="the same metric of a model that always gives the most frequent label, or the same number",
    )
    majority: float | None = Field(default=None, description="share of the most frequent label")
    log_likelihood: float | None = Field(
        default=None, description="mean log-probability of the right answer, without label offsets"
    )
    mean_squared_error: float | None = Field(
        default=None, description="mean squared difference of the outputs and the right numbers of a regression"
    )
    token_log_likelihood: float | None = Field(
        default=None, description="mean log-probability of the target's tokens, or of those of plain texts"
    )
    perplexity: float | None = Field(default=None, description="exp(-`token_log_likelihood`); less is better")
    empty: float | None = Field(default=None, description="share of the generated texts that are empty")
    repetition: float | None = Field(
        default=None, description="share of generated answers in which more than half of the word trigrams are repeated"
    )


class DenseSlim(Schema):
    """A count of the model before and after."""

    dense: int
    slim: int


class Quartiles(Schema):
    """The spread of repeated measurements: a quarter of them are below `first`, a quarter above `third`."""

    first: float
    third: float


class Latency(Schema):
    """Median time in milliseconds of one forward pass on the worker's device."""

    dense: float
    slim: float
    dense_quartiles: Quartiles | None = Field(default=None, description="of the runs of the dense model")
    slim_quartiles: Quartiles | None = Field(default=None, description="of the runs of the slim model")
    batch: int = Field(description="rows of a pass")
    tokens: int = Field(description="tokens of each row")
    runs: int = Field(description="number of timed passes of each model")
    device: str = Field(description="name of the worker's device")
    drift: float | None = Field(
        default=None,
        description="time of a fixed computation when the slim model was timed, divided by its time when the dense "
        "model was timed: near 1 where the machine was equally fast",
    )


class TokenRate(Schema):
    """Median tokens a second of both models, with the spread of the runs."""

    dense: float
    slim: float
    dense_quartiles: Quartiles
    slim_quartiles: Quartiles


class GenerationSpeed(Schema):
    """How fast both models read and write a text on the worker's device: one prompt, with a cache."""

    prefill: TokenRate = Field(description="tokens of the prompt that are read a second")
    decode: TokenRate = Field(description="tokens that are written a second, one at a time")
    prompt_tokens: int = Field(description="tokens of the prompt, which has the median length of the evaluation rows")
    new_tokens: int = Field(description="tokens that are written")
    runs: int = Field(description="least number of timed runs of a model")


class Verified(Schema):
    """The comparison of the checkpoint, reloaded in a new process, with the dense model as it was loaded, without the
    contribution of the removed units; of a recovered checkpoint with the trained model."""

    loader: str = Field(description="class that loaded the checkpoint")
    max_abs_logit_difference: float = Field(
        description="largest difference between two logits of the two models, both computed in float32"
    )
    tolerance: float = Field(description="largest difference with which the job succeeds")
    dtype: str = Field(description="dtype of the weights in the checkpoint")


class ExportedFile(Schema):
    """A file with the weights of the slim model for another runtime."""

    name: str = Field(description="its name among the artifacts")
    bytes: int
    dtype: str = Field(description="how it stores the weight matrices, such as q8_0")
    max_abs_logit_difference: float | None = Field(
        default=None,
        description="largest difference between two logits of the slim model and of this file, whose weights may be "
        "rounded; null where it was not measured",
    )


class Export(Schema):
    """The slim model in the format of another runtime, compared with the checkpoint before the job succeeds."""

    format: Format
    directory: Name = Field(description="its directory among the artifacts")
    architecture: str = Field(description="name of the architecture in that runtime, such as deci")
    files: list[ExportedFile]
    bytes: int = Field(description="size of these files")
    checked_by: str = Field(description="the software that computed the logits of the files")
    max_abs_logit_difference: float = Field(
        description="largest difference between two logits of the slim model and of the format, both in float32"
    )
    tolerance: float = Field(description="largest difference with which the job succeeds")
    command: str = Field(description="shell command that uses it, in the directory of the artifacts")
    notes: list[str] = Field(
        default=[], description="what the format does not hold, and commands that remain to be run"
    )


class MetricsPair(Schema):
    """Metrics of both models on the same rows."""

    dense: Metrics
    slim: Metrics


class QuantisedModel(Schema):
    """The slim model in another precision, beside the dense model in the same one: with `metrics.dense` and
    `metrics.slim` of the result these are four models on the same rows."""

    precision: Precision
    directory: Name = Field(description="directory of the quantised slim model among the artifacts")
    group_size: int | None = Field(
        default=None, description="weights of a row that share a scale; null where all of a row do"
    )
    metrics: MetricsPair = Field(description="of the quantised dense and the quantised slim model, on the task's rows")
    bytes: DenseSlim = Field(description="size of the tensors of both quantised models; the dense one is not stored")
    loader: str = Field(description="class and library that loaded it in a new process")
    max_abs_logit_difference: float = Field(
        description="largest difference between two logits of the stored model, loaded in a new process, and of the "
        "one that was measured, with weights alone rounded; both in float32"
    )
    tolerance: float = Field(description="largest difference with which the job succeeds")
    max_abs_logit_difference_with_activations: float | None = Field(
        default=None, description="the same with activations rounded as well; null where they are not"
    )
    snippet: str = Field(description="Python code that loads it and runs the task on one row")
    command: str | None = Field(default=None, description="shell command that serves it with vLLM; null for `int8`")


class Control(Schema):
    """A model that is cut in the same way by other scores, evaluated on the same rows."""

    ratio: float = Field(description="share of the chosen units' parameters that is removed")
    metrics: Metrics


class Controls(Schema):
    """Models that are cut by random and by reversed scores, for comparison with the slim model."""

    random: list[Control] = Field(description="cut by random scores, with three seeds")
    random_mean: dict[str, float] = Field(description="`value`, `raw` -> mean over the seeds")
    reverse: Control = Field(description="cut by the job's scores, the highest removed")
    per_layer: Control | None = Field(
        default=None,
        description="cut by the job's scores with the layout `per_layer`; null where it does not apply",
    )


class JobMetrics(MetricsPair):
    """Metrics of both models; with several tasks, `dense` and `slim` are over the rows of all of them."""

    controls: Controls | None = Field(default=None, description="null unless `method.controls` is set")
    tasks: dict[str, MetricsPair] = Field(default={}, description="with several tasks: title -> metrics on its rows")
    evaluations: dict[str, MetricsPair] = Field(
        default={}, description="name in `task.evaluations` -> metrics on those rows"
    )
    general: MetricsPair | None = Field(default=None, description="on the rows of `task.general`; null without them")
    observed: dict[str, MetricsPair] = Field(
        default={}, description="title of a task in `observe` -> metrics on its rows"
    )


class Widths(Schema):
    """Number of units in each layer of a stack; the mean where layers keep different numbers."""

    stack: Name
    unit: Unit
    part: Name | None = Field(
        default=None,
        description="of `ffn` in layers with experts: `expert_ffn`, the neurons of each expert, or `shared_ffn`, those "
        "of the shared expert",
    )
    dense: int
    slim: int
    per_layer: list[int] | None = Field(default=None, description="units that each layer keeps, where they differ")
    per_token: DenseSlim | None = Field(
        default=None, description="of `experts`: to how many a token is sent, which is no more than a layer keeps"
    )


class CurvePoint(Schema):
    """A model that a sweep, a search or a comparison of general weights has cut and measured."""

    ratio: float = Field(description="share of the chosen units' parameters that is removed")
    parameters: int
    bytes: int = Field(description="size of its weight files")
    examples: int | None = Field(default=None, description="evaluation rows that it was evaluated on")
    metric: Estimate | None = Field(default=None, description="its metric on those rows, as for `metrics.slim.value`")
    share: Estimate | None = Field(
        default=None, description="share of the dense model's metric on those rows, paired by row"
    )
    collapse: Collapse | None = Field(
        default=None,
        description="how its answers no longer depend on the rows: `one_label` for nearly every row, most texts "
        "`empty`, or most in `repetition` of themselves; null where they do",
    )
    general_weight: float | None = Field(
        default=None, description="share of general rows in its scores and repair, for `target.general_weights`"
    )
    general: Estimate | None = Field(
        default=None,
        description="its metric on general rows, for `target.general_weights`; of plain texts the probability of a "
        "token, which is 1 / perplexity",
    )
    general_share: Estimate | None = Field(
        default=None, description="share of the dense model's metric on general rows, paired by row"
    )
    latency_ms: float | None = Field(default=None, description="median time of a forward pass, for a target of latency")
    meets: bool | None = Field(default=None, description="whether it meets the target; null in a sweep")
    artifact: str | None = Field(
        default=None, description="directory of its checkpoint among the artifacts, such as model-0.3"
    )


class KeptMetric(Schema):
    """Share of the dense metric that a search has kept, on the rows that steered it and on rows held out from it."""

    metric: TaskMetric = Field(description="`task.metric`")
    floor: float = Field(description="`target.keep_metric`")
    steering_examples: int = Field(description="rows that the search used")
    steering: Estimate = Field(description="share that is kept on them")
    reported_examples: int = Field(description="rows held out from the search")
    reported: Estimate = Field(description="share that is kept on them")
    seed: int = Field(description="seed of the split, which is stratified by label")


class StoppedBy(StrEnum):
    """Why a training ended."""

    steps = "steps"  # all steps are done
    seconds = "seconds"  # the time is used up
    held_out = "held_out"  # the loss on held-out rows did not fall any more
    diverged = "diverged"  # the loss was not a finite number any more


class LossPoint(Schema):
    """The losses at one step: means over answers, of generated texts over tokens."""

    step: int
    train: float | None = Field(description="mean since the point before; null at step 0")
    held_out: float = Field(description="on the held-out rows")


class RecoveredMetrics(Schema):
    """Metrics of the three models on the same rows; with several tasks over the rows of all of them."""

    dense: Metrics
    slim: Metrics = Field(description="the slim model before the training")
    recovered: Metrics = Field(description="the slim model after the training")


class RationaleTraining(Schema):
    """The first stage of a training, on rationales."""

    losses: list[LossPoint] = Field(description="means over the tokens of rationales")
    steps: int
    best_step: int = Field(description="step with whose weights the second stage began")
    stopped_by: StoppedBy
    seconds: float
    train_rows: int = Field(description="rationales that were trained on")
    held_out_rows: int = Field(description="rationales of the held-out rows")


class RecoveryResult(Schema):
    """How the slim model was trained, and the three models side by side."""

    metrics: RecoveredMetrics
    losses: list[LossPoint] = Field(
        description="the loss curve of the answers, from the model before the training; the steps on rationales count "
        "and have no points"
    )
    rationales: RationaleTraining | None = Field(
        default=None,
        description="the stage on rationales before that on answers; null without `stages`, and where too few "
        "rationales were kept",
    )
    steps: int = Field(description="steps that were taken, in all stages")
    best_step: int = Field(description="step whose weights were kept; 0: those before the training")
    stopped_by: StoppedBy
    seconds: float = Field(description="time of the training")
    train_rows: int
    held_out_rows: int
    tokens: int = Field(description="tokens that the training read, padding left out")
    lora_parameters: int = Field(description="LoRA weights that were trained")
    rank: int
    learning_rate: float
    label_weight: float = Field(description="weight of the right answers; the rest is that of the dense model")
    merge_difference: float = Field(
        description="largest difference between two logits of the merged model and of the model with the LoRA weights "
        "beside its own, both computed in float32 before the weights were rounded"
    )
    artifact: Name = Field(description="directory of the model before the training, among the artifacts")
    verified: Verified = Field(description="the verification of that model against the masked dense model")


class PushProblem(Schema):
    """Why the model was not pushed."""

    code: str = Field(description="stable: `push_failed`")
    message: str


class Pushed(Schema):
    """The copy of the model at `output.uri`. The job's own files are complete whatever became of it."""

    uri: str
    files: int = Field(description="files that were pushed; 0 where that failed")
    bytes: int
    commit: str | None = Field(default=None, description="commit of an hf:// repository")
    error: PushProblem | None = Field(default=None, description="null: everything was pushed")


class Result(Schema):
    """What a succeeded job has measured of the dense and the slim model, which with `recovery` is the trained one."""

    metrics: JobMetrics
    parameters: DenseSlim
    bytes: DenseSlim
    latency_ms: Latency
    generation_speed: GenerationSpeed | None = Field(default=None, description="null for a model that writes no text")
    widths: list[Widths]
    ratio: float = Field(description="share of the chosen units' parameters that was removed")
    verified: Verified
    scores: str | None = Field(default=None, description="digest of the unit scores, for `GET /scores/{digest}`")
    task_scores: dict[str, str] = Field(
        default={}, description="with several tasks: title -> digest of its unit scores, for `GET /overlap`"
    )
    scores_reused: bool = Field(default=False, description="the unit scores were taken from an earlier job or attempt")
    evaluation_reused: bool = Field(
        default=False, description="the dense model's evaluation was taken from an earlier job or attempt"
    )
    curve: list[CurvePoint] = Field(default=[], description="all models that a sweep or a search has measured")
    kept_metric: KeptMetric | None = Field(default=None, description="null unless `target.keep_metric` is set")
    recovery: RecoveryResult | None = Field(default=None, description="null unless the request has `recovery`")
    pushed: Pushed | None = Field(default=None, description="null unless the request has `output.uri`")
    exports: list[Export] = Field(
        default=[], description="the slim model in the formats of other runtimes that `output.formats` asks for"
    )
    quantised: list[QuantisedModel] = Field(
        default=[], description="the models in the precisions that `output.quantise` asks for"
    )
