"""A loaded model with its task as tokens, and what is measured of it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from service.contract.errors import InvalidRequest
from service.contract.options import Layout, Supervision, TaskKind
from service.contract.presets import needs_answers
from service.contract.report import OwnAnswers
from service.contract.result import Metrics
from service.contract.rows import Row, have_answers
from service.contract.task import TaskWording
from worker.checkpoints.loading import LoadedModel, count_parameters, load_model
from worker.checkpoints.per_layer import has_per_layer_class
from worker.checkpoints.verification import Probe
from worker.data import batching, prompts
from worker.data.prompts import Example, Wording
from worker.evaluation import answers
from worker.evaluation import metrics as scoring
from worker.evaluation.metrics import AnswerScores, select_rows
from worker.slimming.architectures import ARCHITECTURES, Architecture
from worker.slimming.scoring.objectives import Batch
from worker.stages.context import JobContext

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True)
class Examples:
    """Rows as tokens of one model, and their batches."""

    examples: list[Example]
    batches: list[Batch]
    shortened: int  # how many of the prompts were too long for the model and lost words
    answered: bool = True  # whether the rows came with right answers


@dataclass(frozen=True)
class TaskModel:
    """A model, a task, and the rows of the task as tokens of the model."""

    loaded: LoadedModel
    wording: Wording
    padding: batching.Padding
    calibration: Examples
    evaluation: Examples
    probe: Probe | None = None  # of the whole model, for the verification of what is cut from it
    own_answers: OwnAnswers | None = None  # of the dense model to the calibration rows, where those have no labels

    @property
    def kind(self) -> TaskKind:
        """The kind of the task."""
        return self.wording.task.kind or TaskKind.classification

    @property
    def generates(self) -> bool:
        """Whether the model answers with generated text."""
        return self.kind is TaskKind.generation

    @property
    def architecture(self) -> Architecture:
        """Where the modules of the model's family hold the units."""
        return ARCHITECTURES[self.loaded.family.model_type]


@dataclass(frozen=True)
class Measured:
    """What a model answers on evaluation rows, and the metrics of its answers."""

    metrics: Metrics
    answers: list[str]  # labels, or generated texts, in the order of the rows
    parameters: int
    scores: AnswerScores


def load(context: JobContext, model: Path, adapter: Path | None) -> LoadedModel:
    """The model on its device. Raises InvalidRequest for a layout that the model's widths do not fit."""
    loaded = load_model(model, device=device(context.settings.device), adapter=adapter)
    if has_per_layer_class(loaded.model) and context.job.request.output.layout is Layout.uniform:
        message = "the layers of this model have widths of their own already: ask for the layout `per_layer`"
        raise InvalidRequest(message, param="output.layout")
    return loaded


def check_latency_tokens(context: JobContext, task_model: TaskModel) -> None:
    """Raise InvalidRequest for a target of latency whose pass has more tokens than the model takes."""
    bound, most = context.job.request.target.latency_ms, task_model.wording.max_tokens
    if bound is not None and most is not None and bound.tokens > most:
        raise InvalidRequest(f"the model takes {most} tokens at most", param="target.latency_ms.tokens")


def encode_task(
    context: JobContext, loaded: LoadedModel, task: TaskWording, calibration: list[Row], evaluation: list[Row]
) -> TaskModel:
    """The model with a resolved task in tokens. Raises InvalidLabels, InvalidTemplate or UnknownLabel."""
    kind = loaded.family.kind
    wording = prompts.wording(kind, task, loaded.tokenizer, loaded.model.config)
    padding = batching.padding(loaded.model, loaded.tokenizer, kind)
    tokens = context.settings.tokens_per_batch
    return TaskModel(
        loaded,
        wording,
        padding,
        calibration=encode(calibration, "task.calibration", wording, padding, tokens),
        evaluation=encode(evaluation, "task.evaluation", wording, padding, tokens),
    )


def encode(rows: list[Row], param: str, wording: Wording, padding: batching.Padding, tokens_per_batch: int) -> Examples:
    """The rows that the request names at `param`, in tokens."""
    answered = needs_answers(wording.task, param, have_answers(rows, wording.task))
    encoded, shortened = prompts.encode(rows, wording, answered=answered)
    return Examples(encoded, batching.batches(encoded, padding, tokens_per_batch), shortened, answered)


def with_examples(context: JobContext, task_model: TaskModel, rows: Examples, examples: list[Example]) -> Examples:
    """The rows with other examples in place of theirs."""
    batches = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)
    return replace(rows, examples=examples, batches=batches)


def evaluate(context: JobContext, task_model: TaskModel) -> Measured:
    """The model on its evaluation rows."""
    return _evaluate(context, task_model, context.counter(_num_passes(task_model)))


def evaluate_all(context: JobContext, task_models: Mapping[KeyT, TaskModel]) -> dict[KeyT, Measured]:
    """Each model on its evaluation rows, under the key of the model. The progress counts the rows of all of them."""
    count = context.counter(sum(map(_num_passes, task_models.values())))
    measured: dict[KeyT, Measured] = {}
    before = 0
    for key, task_model in task_models.items():
        measured[key] = _evaluate(context, task_model, _counting_from(before, count))
        before += _num_passes(task_model)
    return measured


def _counting_from(start: int, count: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: count(start + done)


def _num_passes(task_model: TaskModel) -> int:
    """Forward passes that an evaluation counts: one for each row, and one more for each text that is generated."""
    return len(task_model.evaluation.examples) * (2 if task_model.generates else 1)


def _evaluate(context: JobContext, task_model: TaskModel, count: Callable[[int], None]) -> Measured:
    model, rows = task_model.loaded.model, task_model.evaluation
    scores = scoring.score(model, rows.batches, count)
    if task_model.generates:
        given = scoring.generate(
            model,
            rows.examples,
            task_model.wording,
            task_model.padding,
            context.settings.tokens_per_batch,
            lambda done: count(len(rows.examples) + done),
        )
    else:
        given = answers.chosen_labels(scores, list(task_model.wording.words))
    return Measured(_metrics(task_model, scores, given), given, count_parameters(model), scores)


def _metrics(task_model: TaskModel, scores: AnswerScores, given: list[str]) -> Metrics:
    rows = task_model.evaluation
    if task_model.generates:
        metrics = scoring.generation_metrics(scores, rows.examples, given)
    else:
        metrics = scoring.classification_metrics(scores)
    return metrics if rows.answered else metrics.model_copy(update={"judged_by": Supervision.none})


def measured_part(whole: Measured, part: TaskModel, rows: Sequence[int]) -> Measured:
    """The measurement of the given rows alone, out of that of all rows; they are the evaluation rows of `part`."""
    scores, given = select_rows(whole.scores, rows), [whole.answers[row] for row in rows]
    return Measured(_metrics(part, scores, given), given, whole.parameters, scores)


def device(name: str) -> torch.device:
    """The device that a setting names; `auto` means the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
