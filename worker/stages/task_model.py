"""The model that a job slims, its task in tokens, and what is measured of both before and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from service.contract.errors import InvalidRequest
from service.contract.options import Layout, Supervision, TaskKind
from service.contract.presets import needs_answers
from service.contract.report import OwnAnswers
from service.contract.request import TaskWording
from service.contract.result import Metrics
from service.contract.rows import Row, have_answers
from worker.checkpoints import loading
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.per_layer import is_own
from worker.data import batching, prompts
from worker.data.prompts import Example, Wording
from worker.evaluation import answers
from worker.evaluation import metrics as evaluation
from worker.evaluation.metrics import Scores
from worker.slimming.architectures import ARCHITECTURES, Architecture
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments
from worker.stages.context import JobContext


@dataclass(frozen=True)
class Examples:
    """Rows as one model reads them."""

    examples: list[Example]
    batches: list[Batch]
    shortened: int
    answered: bool = True  # false: the rows bring no right answers
    moments: dict[str, Moments] = field(default_factory=dict)  # of the dense model, once scoring has taken them here


@dataclass(frozen=True)
class TaskModel:
    """The model that is being slimmed, and its task in tokens."""

    loaded: LoadedModel
    wording: Wording
    padding: batching.Padding
    calibration: Examples
    evaluation: Examples
    own_answers: OwnAnswers | None = None  # what the dense model gave the calibration rows in place of labels

    @property
    def generates(self) -> bool:
        """Whether its answers are texts."""
        return self.wording.task.kind is TaskKind.generation

    @property
    def architecture(self) -> Architecture:
        """Where its family keeps the units."""
        return ARCHITECTURES[self.loaded.family.model_type]


@dataclass(frozen=True)
class Measured:
    """A model on the evaluation rows."""

    metrics: Metrics
    answers: list[str]  # labels, or generated texts, in the order of the rows
    parameters: int
    scores: Scores


def load(context: JobContext, model: Path, adapter: Path | None) -> LoadedModel:
    """The model on its device. Raises InvalidRequest for a layout that cannot hold it."""
    loaded = loading.load(model, device=device(context.settings.device), adapter=adapter)
    if is_own(loaded.model) and context.job.request.output.layout is Layout.uniform:
        message = "the layers of this model have widths of their own already: ask for the layout `per_layer`"
        raise InvalidRequest(message, param="output.layout")
    return loaded


def encode_task(
    context: JobContext, loaded: LoadedModel, task: TaskWording, calibration: list[Row], evaluation_rows: list[Row]
) -> TaskModel:
    """The model with a resolved task in tokens."""
    kind = loaded.family.kind
    wording = prompts.wording(kind, task, loaded.tokenizer, loaded.model.config)
    padding = batching.padding(loaded.model, loaded.tokenizer, kind)
    tokens = context.settings.tokens_per_batch
    calibrating = encode(calibration, "task.calibration", wording, padding, tokens)
    judging = encode(evaluation_rows, "task.evaluation", wording, padding, tokens)
    return TaskModel(loaded, wording, padding, calibrating, judging)


def encode(rows: list[Row], param: str, wording: Wording, padding: batching.Padding, tokens_per_batch: int) -> Examples:
    """The rows that the request names at `param`, as the model reads them."""
    answered = needs_answers(wording.task, param, have_answers(rows, wording.task))
    encoded, shortened = prompts.encode(rows, wording, answered=answered)
    return Examples(encoded, batching.batches(encoded, padding, tokens_per_batch), shortened, answered)


def evaluate(context: JobContext, task_models: Sequence[TaskModel]) -> list[Measured]:
    """The model as it now is, on the evaluation rows of each subject."""
    sizes = [_passes(task_model) for task_model in task_models]
    count = context.counter(sum(sizes))
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [
        _evaluate(context, task_model, _ahead(count, start))
        for task_model, start in zip(task_models, starts, strict=True)
    ]


def _ahead(count: Callable[[int], None], start: int) -> Callable[[int], None]:
    """Counts on from `start`."""
    return lambda done: count(start + done)


def _passes(task_model: TaskModel) -> int:
    """Examples that an evaluation goes through: those of a generation task once for scores, once for texts."""
    return len(task_model.evaluation.examples) * (2 if task_model.generates else 1)


def _evaluate(context: JobContext, task_model: TaskModel, count: Callable[[int], None]) -> Measured:
    model, rows = task_model.loaded.model, task_model.evaluation
    scores = evaluation.score(model, rows.batches, count)
    if task_model.generates:
        given = evaluation.generate(
            model,
            rows.examples,
            task_model.wording,
            task_model.padding,
            context.settings.tokens_per_batch,
            lambda done: count(len(rows.examples) + done),
        )
    else:
        given = answers.chosen_labels(scores, list(task_model.wording.words))
    return Measured(_metrics(task_model, scores, given), given, loading.count_parameters(model), scores)


def _metrics(task_model: TaskModel, scores: Scores, given: list[str]) -> Metrics:
    rows = task_model.evaluation
    if task_model.generates:
        metrics = evaluation.generation_metrics(scores, rows.examples, given)
    else:
        metrics = evaluation.classification_metrics(scores)
    return metrics if rows.answered else metrics.model_copy(update={"judged_by": Supervision.none})


def measured_part(whole: Measured, part: TaskModel, rows: Sequence[int]) -> Measured:
    """What was measured, on some of the rows: those that are the evaluation rows of `part`."""
    scores = Scores(whole.scores.log_probability_EL[list(rows)], whole.scores.answer_E[list(rows)])
    given = [whole.answers[row] for row in rows]
    return Measured(_metrics(part, scores, given), given, whole.parameters, scores)


def device(name: str) -> torch.device:
    """The device of a setting; `auto` is the first GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
