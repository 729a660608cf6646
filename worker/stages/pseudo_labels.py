"""The dense model's own answers in place of labels, for rows that have none (`task.supervision: "none"`).

The answer is the label with the highest log-probability as it is, not the calibrated one: that subtracts each label's
mean over the rows, which is only right where every label is as frequent, and nobody knows that of rows without labels.

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.contract.errors import UnusableAnswers
from service.contract.report import OwnAnswers
from worker.data import batching
from worker.data.prompts import Example
from worker.evaluation import metrics
from worker.stages.context import JobContext
from worker.stages.task_model import Examples, Measured, TaskModel

Evaluate = Callable[[Sequence[TaskModel]], list[Measured]]


@dataclass(frozen=True)
class Answered:
    """Examples with the model's own answers, and how likely it finds each."""

    examples: list[Example]
    confidence_E: Tensor


def supervise(context: JobContext, task_models: Sequence[TaskModel], evaluate: Evaluate) -> list[TaskModel]:
    """The subjects with an answer for every evaluation row that lacks one; the first one, which is to be slimmed, with
    answers to its calibration rows, those below the floor left out.

    `evaluate` measures the dense model on the evaluation rows of subjects, or knows what came of it earlier. Raises
    UnusableAnswers where the answers to the calibration rows leave a label without a row.
    """
    task_model, *others = [_judged(context, task_model, evaluate) for task_model in task_models]
    return [
        task_model if task_model.calibration.answered else _calibrated_on_answers(context, task_model, evaluate),
        *others,
    ]


def _judged(context: JobContext, task_model: TaskModel, evaluate: Evaluate) -> TaskModel:
    rows = task_model.evaluation
    if rows.answered:
        return task_model
    return replace(
        task_model, evaluation=_with(context, task_model, answer(context, task_model, rows, evaluate).examples, rows)
    )


def _calibrated_on_answers(context: JobContext, task_model: TaskModel, evaluate: Evaluate) -> TaskModel:
    given = answer(context, task_model, task_model.calibration, evaluate)
    chosen = _confident(given, context.task.confidence or 0.0)
    answers = Counter(example.answer for example in chosen)
    labels = list(task_model.wording.words)
    own = OwnAnswers(
        given={label: answers[index] for index, label in enumerate(labels)},
        left_out=len(given.examples) - len(chosen),
    )
    _check(own, given, chosen, labels)
    return replace(task_model, calibration=_with(context, task_model, chosen, task_model.calibration), own_answers=own)


def answer(context: JobContext, task_model: TaskModel, rows: Examples, evaluate: Evaluate) -> Answered:
    """The model's own answer to each row: its likeliest label, or what it writes.

    Its confidence is P(label) among the labels, or the geometric mean of P(token | what precedes it) over the tokens of
    a text, so that a long text is not less certain for its length.
    """
    if task_model.generates:
        return _written(context, task_model, rows)
    [measured] = evaluate([replace(task_model, evaluation=rows)])
    confidence_E, answer_E = measured.scores.log_probability_EL.softmax(dim=1).max(dim=1)
    words = list(task_model.wording.words.values())
    examples = [
        replace(example, answer=index, text=words[index])
        for example, index in zip(rows.examples, answer_E.tolist(), strict=True)
    ]
    return Answered(examples, confidence_E)


def _written(context: JobContext, task_model: TaskModel, rows: Examples) -> Answered:
    model, wording, padding = task_model.loaded.model, task_model.wording, task_model.padding
    budget, count = context.settings.tokens_per_batch, context.counter(2 * len(rows.examples))
    written = metrics.write(model, rows.examples, wording, padding, budget, count)
    texts = wording.tokenizer.batch_decode(written, skip_special_tokens=True)
    examples = [
        replace(example, candidates=(tuple(tokens),), text=text)
        for example, tokens, text in zip(rows.examples, written, texts, strict=True)
    ]
    scores = metrics.score(
        model, batching.batches(examples, padding, budget), lambda done: count(len(rows.examples) + done)
    )
    length_E = torch.tensor([len(tokens) for tokens in written])
    return Answered(examples, (scores.log_probability_EL[:, 0] / length_E).exp())


def _confident(given: Answered, floor: float) -> list[Example]:
    return [
        example
        for example, confidence in zip(given.examples, given.confidence_E.tolist(), strict=True)
        if confidence >= floor
    ]


def _check(own: OwnAnswers, given: Answered, chosen: Sequence[Example], labels: Sequence[str]) -> None:
    if not chosen:
        raise UnusableAnswers(
            f"none of the model's {len(given.examples)} answers is as likely as asked for; the likeliest has "
            f"{given.confidence_E.max():.3f}",
            param="task.confidence",
        )
    never = [label for label in labels if not own.given[label]]
    ever = {labels[example.answer] for example in given.examples} if labels else set()
    for label in never:
        lost = "with the confidence asked for" if label in ever else "to any calibration row"
        raise UnusableAnswers(
            f"the model never answers {label!r} {lost}, so nothing would be kept for that label: give more rows, or "
            "rows with labels",
            param="task.confidence" if label in ever else "task.supervision",
        )


def _with(context: JobContext, task_model: TaskModel, examples: list[Example], rows: Examples) -> Examples:
    batches = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)
    return replace(rows, examples=examples, batches=batches)
