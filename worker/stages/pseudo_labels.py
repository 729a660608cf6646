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


def supervise(staged: JobContext, subjects: Sequence[TaskModel], evaluate: Evaluate) -> list[TaskModel]:
    """The subjects with an answer for every evaluation row that lacks one; the first one, which is to be slimmed, with
    answers to its calibration rows, those below the floor left out.

    `evaluate` measures the dense model on the evaluation rows of subjects, or knows what came of it earlier. Raises
    UnusableAnswers where the answers to the calibration rows leave a label without a row.
    """
    subject, *others = [_judged(staged, subject, evaluate) for subject in subjects]
    return [subject if subject.calibration.answered else _calibrated_on_answers(staged, subject, evaluate), *others]


def _judged(staged: JobContext, subject: TaskModel, evaluate: Evaluate) -> TaskModel:
    rows = subject.evaluation
    if rows.answered:
        return subject
    return replace(subject, evaluation=_with(staged, subject, answer(staged, subject, rows, evaluate).examples, rows))


def _calibrated_on_answers(staged: JobContext, subject: TaskModel, evaluate: Evaluate) -> TaskModel:
    given = answer(staged, subject, subject.calibration, evaluate)
    chosen = _confident(given, staged.task.confidence or 0.0)
    answers = Counter(example.answer for example in chosen)
    labels = list(subject.wording.words)
    own = OwnAnswers(
        given={label: answers[index] for index, label in enumerate(labels)},
        left_out=len(given.examples) - len(chosen),
    )
    _check(own, given, chosen, labels)
    return replace(subject, calibration=_with(staged, subject, chosen, subject.calibration), own_answers=own)


def answer(staged: JobContext, subject: TaskModel, rows: Examples, evaluate: Evaluate) -> Answered:
    """The model's own answer to each row: its likeliest label, or what it writes.

    Its confidence is P(label) among the labels, or the geometric mean of P(token | what precedes it) over the tokens of
    a text, so that a long text is not less certain for its length.
    """
    if subject.generates:
        return _written(staged, subject, rows)
    [measured] = evaluate([replace(subject, evaluation=rows)])
    confidence_E, answer_E = measured.scores.log_probability_EL.softmax(dim=1).max(dim=1)
    words = list(subject.wording.words.values())
    examples = [
        replace(example, answer=index, text=words[index])
        for example, index in zip(rows.examples, answer_E.tolist(), strict=True)
    ]
    return Answered(examples, confidence_E)


def _written(staged: JobContext, subject: TaskModel, rows: Examples) -> Answered:
    model, wording, padding = subject.loaded.model, subject.wording, subject.padding
    budget, count = staged.settings.tokens_per_batch, staged.counter(2 * len(rows.examples))
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


def _with(staged: JobContext, subject: TaskModel, examples: list[Example], rows: Examples) -> Examples:
    batches = batching.batches(examples, subject.padding, staged.settings.tokens_per_batch)
    return replace(rows, examples=examples, batches=batches)
