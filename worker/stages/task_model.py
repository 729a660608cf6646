"""A loaded model with its task as tokens, and what is measured of it."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.contract.answers.report import Decoding, OwnAnswers, Synthesised
from service.contract.answers.result import Metrics
from service.contract.errors import InvalidRequest, blaming_rows
from service.contract.options import Layout, Supervision, TaskKind, TaskMetric, Unit
from service.contract.request.presets import LABELLED_BY_HEAD, needs_answers
from service.contract.request.task import TaskWording
from service.contract.row_values import RowValues
from service.exports.formats import asked, check_format_tokenizers, check_formats
from service.exports.precisions import check_precisions
from service.models.families.table import check_first_layer, check_merge, check_units
from service.rows.checks import have_answers
from service.rows.labels import check_classes, with_named_labels
from service.rows.row import Row
from worker.checkpoints.loading import LoadedModel, count_parameters, load_model
from worker.checkpoints.model_classes.per_layer import has_per_layer_class
from worker.checkpoints.verification import Probe
from worker.data import batching, encoding, wordings
from worker.data.examples import Example
from worker.data.token_use import ReadTexts
from worker.data.wordings import Tokens, Wording
from worker.evaluation import answer_scores, decision_offsets, generation, label_offsets, similarities
from worker.evaluation.answers import Answers
from worker.evaluation.judging import judge
from worker.exports.packages import check_packages
from worker.quantisation.layers import linear_modules
from worker.quantisation.precisions import check_precision_packages
from worker.slimming.architectures import Architecture, architecture_of
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
    texts: Mapping[str, Tokens] = field(default_factory=dict)  # that were read for calibration rows, and their tokens


@dataclass(frozen=True)
class Synthesis:
    """What a language model wrote from the calibration rows: the counts, and every text."""

    counts: Synthesised
    lines: list[RowValues]


@dataclass(frozen=True)
class TaskModel:
    """A model, a task, and the rows of the task as tokens of the model."""

    loaded: LoadedModel
    wording: Wording
    padding: batching.Padding
    calibration: Examples
    evaluation: Examples
    probe: Probe | None = None  # of the whole model, for the verification of what is cut from it
    synthesis: Synthesis | None = None  # what a language model wrote, where the job asks for rows or rationales
    own_answers: OwnAnswers | None = None  # of the dense model to the calibration rows, where those have no labels
    held_out: Examples | None = None  # calibration rows that are no longer in `calibration`, where there is a recovery
    offset_rows: Examples | None = None  # calibration rows of this task that its label offsets are fitted on
    offset_L: Tensor | None = None  # the label offsets that are shipped with a cut model

    @property
    def kind(self) -> TaskKind:
        """The kind of the task."""
        return self.wording.task.kind or TaskKind.classification

    @property
    def generates(self) -> bool:
        """Whether the model answers with generated text."""
        return self.kind is TaskKind.generation

    @property
    def has_labels(self) -> bool:
        """Whether the model answers with labels, which have offsets."""
        return self.kind in (TaskKind.classification, TaskKind.multi_label, TaskKind.token_classification)

    @property
    def metric(self) -> TaskMetric:
        """The metric that the task is judged by."""
        assert self.wording.task.metric is not None, "the task is resolved"
        return self.wording.task.metric

    @property
    def decoding(self) -> Decoding | None:
        """How the model generates its answers to the evaluation rows; None where it generates none."""
        return generation.decoding(self.evaluation.examples, self.padding) if self.generates else None

    @property
    def architecture(self) -> Architecture:
        """Where the modules of the model's family hold the units."""
        return architecture_of(self.loaded.model)


@dataclass(frozen=True)
class Measured:
    """What a model answers on evaluation rows, and the metrics of its answers."""

    metrics: Metrics
    answers: Answers
    # labels, numbers or generated texts, in the order of the rows; empty for embeddings and plain texts
    given: list[str]
    parameters: int


def load(context: JobContext, model: Path, adapter: Path | None) -> LoadedModel:
    """The model on its device.

    Raises InvalidRequest for a layout or layers that the model cannot have, UnsupportedUnit for a unit that its config
    cannot hold fewer of, UnsupportedFormat for a format or a precision that cannot hold it or its tokenizer, or whose
    packages are not installed.
    """
    loaded = load_model(model, device=device(context.settings.device), adapter=adapter, scratch=context.scratch)
    method, config = context.job.request.method, loaded.model.config.to_dict()
    check_units(method.units, loaded.family, config)
    check_first_layer(method, loaded.family, config)
    check_merge(method, loaded.family)
    check_formats(context.job.request, loaded.family, config)
    check_packages(context.job.request.output.formats)
    rows = [module.in_features for module in linear_modules(loaded.model, architecture_of(loaded.model)).values()]
    check_precisions(context.job.request, loaded.family, config, rows)
    check_precision_packages(context.job.request.output.quantise)
    if any(asked(context.job.request)):
        check_format_tokenizers(context.job.request, json.loads(loaded.tokenizer.backend_tokenizer.to_str()))
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
    tokens = context.settings.tokens_per_batch
    remember = Unit.vocabulary in context.job.request.method.units
    wording, padding = worded(loaded, task, tokens)
    task_model = TaskModel(
        loaded,
        wording,
        padding,
        calibration=encode(calibration, "task.calibration", wording, padding, tokens, remember=remember),
        evaluation=encode(evaluation, "task.evaluation", wording, padding, tokens),
    )
    return with_offset_rows(context, task_model)


def worded(loaded: LoadedModel, task: TaskWording, tokens_per_batch: int | None) -> tuple[Wording, batching.Padding]:
    """How a resolved task is written for a model, and how its batches are padded. Raises as `wordings.wording`."""
    kind, encoder = loaded.family.kind, loaded.sentence_encoder
    wording = wordings.wording(kind, task, loaded.tokenizer, loaded.model.config, tokens_per_batch, encoder)
    padding = batching.padding(loaded.model, loaded.tokenizer, kind, wording.ends)
    return wording, replace(padding, pooling=encoder.pooling if encoder else "")


def encode(
    rows: list[Row],
    param: str,
    wording: Wording,
    padding: batching.Padding,
    tokens_per_batch: int,
    *,
    remember: bool = False,
) -> Examples:
    """The rows that the request names at `param`, in tokens; with `remember` also the texts that were read.

    Every answer of a conversation is calibrated on; the last one is judged, so that the judged answers are as
    independent of each other as the rows.
    """
    answered = needs_answers(wording.task, param, have_answers(rows, wording.task))
    if wording.task.kind in LABELLED_BY_HEAD and answered:  # `labels` may be the classes of the head
        rows = with_named_labels(rows, wording.task)
        check_classes(rows, wording.task)
    is_calibration = param == "task.calibration"
    reader: Any = ReadTexts(wording.tokenizer)
    read_by = replace(wording, tokenizer=reader) if remember else wording
    with blaming_rows(param):
        encoded, shortened = encoding.encode(rows, read_by, answered=answered, is_calibration=is_calibration)
    if not is_calibration:  # each row is one example
        encoded = [replace(example, row=row) for example, row in zip(encoded, rows, strict=True)]
    return Examples(encoded, batching.batches(encoded, padding, tokens_per_batch), shortened, answered, reader.tokens)


def with_examples(context: JobContext, task_model: TaskModel, rows: Examples, examples: list[Example]) -> Examples:
    """The rows with other examples in place of theirs."""
    batches = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)
    return replace(rows, examples=examples, batches=batches)


def with_offset_rows(context: JobContext, task_model: TaskModel) -> TaskModel:
    """The task model with the calibration rows that its label offsets are fitted on; unchanged without labels there."""
    rows = task_model.calibration
    if not task_model.has_labels or not rows.examples or not (rows.answered or task_model.own_answers):
        return task_model
    examples = [
        rows.examples[row] for row in label_offsets.rows_to_fit([each.target or each.answer for each in rows.examples])
    ]
    is_whole = len(examples) == len(rows.examples)
    return replace(task_model, offset_rows=rows if is_whole else with_examples(context, task_model, rows, examples))


def evaluate(context: JobContext, task_model: TaskModel) -> Measured:
    """The model on its evaluation rows, with label offsets that are fitted to its answers to calibration rows."""
    on_offset_rows = on_rows_of_offsets(task_model)
    models = {"evaluation": task_model} | ({"offsets": on_offset_rows} if on_offset_rows else {})
    answers = answer_all(context, models)
    offset_L = fitted(answers["offsets"]) if on_offset_rows else None
    return measured(task_model, replace(answers["evaluation"], offset_L=offset_L))


def on_rows_of_offsets(task_model: TaskModel) -> TaskModel | None:
    """The model with the rows that its label offsets are fitted on in place of its evaluation rows."""
    return replace(task_model, evaluation=task_model.offset_rows) if task_model.offset_rows else None


def fitted(answers: Answers) -> Tensor:
    """The label offsets of a model from its answers to rows with right labels."""
    if answers.scores.target_EL is not None:
        return decision_offsets.fit(answers.scores.score_EL, answers.scores.target_EL)
    return label_offsets.fit(answers.scores.score_EL, answers.scores.answer_E)


def answer_all(context: JobContext, task_models: Mapping[KeyT, TaskModel]) -> dict[KeyT, Answers]:
    """The answers of each model to its evaluation rows, under the key of the model, without label offsets.

    The progress counts the rows of all of them.
    """
    count = context.counter(sum(map(_num_passes, task_models.values())))
    answers: dict[KeyT, Answers] = {}
    before = 0
    for key, task_model in task_models.items():
        answers[key] = answer_rows(context, task_model, _counting_from(before, count))
        before += _num_passes(task_model)
    return answers


def _counting_from(start: int, count: Callable[[int], None]) -> Callable[[int], None]:
    return lambda done: count(start + done)


def _num_passes(task_model: TaskModel) -> int:
    """Forward passes that an evaluation counts: one for each row, and one more for each text that is generated."""
    return len(task_model.evaluation.examples) * (2 if task_model.generates else 1)


def answer_rows(
    context: JobContext, task_model: TaskModel, count: Callable[[int], None], *, texts: bool = True
) -> Answers:
    """The model's answers to its evaluation rows. Without `texts` it generates none."""
    model, rows = task_model.loaded.model, task_model.evaluation
    scores = answer_scores.score(model, rows.batches, count)
    if task_model.kind is TaskKind.embedding:
        return Answers(similarities.as_answers(scores, task_model.metric))
    if not task_model.generates or not texts:
        return Answers(scores)
    generated = generation.generate(
        model,
        rows.examples,
        task_model.wording,
        task_model.padding,
        context.settings.tokens_per_batch,
        lambda done: count(len(rows.examples) + done),
    )
    return Answers(scores, texts=generated)


def measured(task_model: TaskModel, answers: Answers) -> Measured:
    """The measurement of a model from its answers to its evaluation rows."""
    rows = task_model.evaluation
    judged_by = Supervision.labels if rows.answered else Supervision.none
    labels = list(task_model.wording.words)
    metrics = judge(task_model.metric, answers, rows.examples, judged_by)
    if answers.offset_L is not None:
        offsets = dict(zip(labels, answers.offset_L.tolist(), strict=True))
        metrics = metrics.model_copy(update={"label_offsets": offsets})
    without_answers = (TaskKind.embedding, TaskKind.language_modelling)
    given = [] if task_model.kind in without_answers else answers.given(labels)
    return Measured(metrics, answers, given, count_parameters(task_model.loaded.model))


def measured_part(whole: Measured, part: TaskModel, rows: Sequence[int]) -> Measured:
    """The part of a measurement that the evaluation rows of `part` have, which are the given rows of the whole."""
    return replace(measured(part, whole.answers.of_rows(rows)), parameters=whole.parameters)


def device(name: str) -> torch.device:
    """The device that a setting names; `auto` means the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
