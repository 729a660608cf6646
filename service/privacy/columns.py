"""Which columns of rows a task reads: nothing else leaves the client. This module needs no extra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.contract.errors import InvalidRequest
from service.contract.options import TaskKind
from service.contract.request.presets import LABEL_COLUMN, TARGET_COLUMN, template_fields
from service.contract.request.task import TaskWording
from service.rows.row import Row
from service.rows.words import first_words

# Kinds of tasks whose answers are neither labels nor texts -> why their rows are refused.
UNSERVED = {
    TaskKind.regression: "its answers are numbers, which have no labels to draw from and no tokens to replace",
    TaskKind.token_classification: "each word has a tag of its own, which would say what the word was",
}


@dataclass(frozen=True)
class PrivateColumns:
    """The columns that are written, each with the kind of values that it has."""

    texts: tuple[str, ...]  # replaced token by token
    labels: tuple[str, ...] = ()  # those that a row may have; empty: no labels are written
    has_several: bool = False  # whether a row may have several labels
    max_words: int | None = None  # the server reads no more of a column

    def texts_of(self, row: Row) -> dict[str, list[str]]:
        """The texts in each column of a row, without words that the server would not read. Raises InvalidData."""
        return {
            column: row.targets() if column == TARGET_COLUMN else [first_words(row.text(column), self.max_words)]
            for column in self.texts
        }

    def decisions_of(self, row: Row) -> list[int]:
        """The labels of a row as numbers, to which randomised response is applied.

        One label is its place among the labels; of several each is a decision of its own, 1 where the row has it.
        """
        if not self.labels:
            return []
        if self.has_several:
            own = row.labels(LABEL_COLUMN)
            return [int(label in own) for label in self.labels]
        return [self.labels.index(row.text(LABEL_COLUMN))]

    def label_value(self, decisions: Sequence[int]) -> Mapping[str, str | list[str]]:
        """The label column of a row whose decisions are these; none where no labels are written."""
        if not self.labels:
            return {}
        if self.has_several:
            return {LABEL_COLUMN: [label for label, has in zip(self.labels, decisions, strict=True) if has]}
        return {LABEL_COLUMN: self.labels[decisions[0]]}

    @property
    def choices(self) -> int:
        """Among how many answers a decision is drawn."""
        return 2 if self.has_several else len(self.labels)


def columns_of(task: TaskWording, *, answered: bool) -> PrivateColumns:
    """The columns of a resolved task; its labels or targets are written where the rows are `answered`.

    Raises InvalidRequest for a kind of task whose answers cannot be made private, and for several labels without names.
    """
    kind = task.kind or TaskKind.classification
    if kind in UNSERVED:
        raise InvalidRequest(f"rows of a {kind} task are not made private: {UNSERVED[kind]}", param="task.kind")
    if answered and kind is TaskKind.multi_label and task.labels is None:
        message = "name the labels, those included that no row has: which ones the rows have is private"
        raise InvalidRequest(message, param="task.labels")
    texts = tuple(sorted(template_fields(task.template or "")))
    return PrivateColumns(
        texts=(*texts, TARGET_COLUMN) if answered and kind is TaskKind.generation else texts,
        labels=tuple(task.labels or ()) if answered else (),
        has_several=kind is TaskKind.multi_label,
        max_words=task.max_words,
    )
