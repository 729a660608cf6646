"""A model's answers to evaluation rows, and the differences between the answers of two models."""

from collections.abc import Sequence

from service.contract.presets import template_fields
from service.contract.report import ChangedAnswer, Confusion
from service.contract.rows import Row
from service.contract.task import TaskWording
from worker.data.prompts import Example
from worker.evaluation.metrics import AnswerScores

MAX_CHANGED = 50
MAX_FIELD_LENGTH = 600


def chosen_labels(scores: AnswerScores, labels: Sequence[str]) -> list[str]:
    """The label with the highest log-probability, for every example."""
    return [labels[index] for index in scores.log_probability_EL.argmax(dim=1).tolist()]


def right_labels(examples: Sequence[Example], labels: Sequence[str]) -> list[str]:
    """The right label of every example."""
    return [labels[example.answer] for example in examples]


def confusion(labels: Sequence[str], right: Sequence[str], dense: Sequence[str], slim: Sequence[str]) -> Confusion:
    """The confusion matrices of both models: rows are right labels, columns are answers."""
    return Confusion(labels=list(labels), dense=_matrix(labels, right, dense), slim=_matrix(labels, right, slim))


def changed(
    task: TaskWording, rows: Sequence[Row], right: Sequence[str], dense: Sequence[str], slim: Sequence[str]
) -> list[ChangedAnswer]:
    """The rows that the models answer differently, in the order of the data set."""
    columns = sorted(template_fields(task.template or ""))
    return [
        ChangedAnswer(
            line=row.line,
            fields={column: _shortened(row.text(column)) for column in columns},
            right=_shortened(answer),
            dense=_shortened(before),
            slim=_shortened(now),
        )
        for row, answer, before, now in zip(rows, right, dense, slim, strict=True)
        if before != now
    ]


def _matrix(labels: Sequence[str], right: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    pairs = list(zip(right, answers, strict=True))
    return [[pairs.count((row, column)) for column in labels] for row in labels]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_FIELD_LENGTH else f"{text[:MAX_FIELD_LENGTH]}…"
