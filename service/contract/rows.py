"""A row of a data set, and what a task needs of its rows. The API checks inline rows with it, the worker all rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.errors import InvalidData, InvalidTemplate, UnknownLabel
from service.contract.fields import RowValues
from service.contract.options import TaskKind
from service.contract.presets import ANSWER_COLUMNS, LABEL_COLUMN, template_fields
from service.contract.task import TaskWording


@dataclass(frozen=True)
class Row:
    """The columns of a row, and where it stands: its line in a text file, or its number among the rows."""

    values: RowValues
    line: int
    counted_in: str = "line"  # "row" where the format has no lines: Parquet, and rows inside a request

    @property
    def position(self) -> str:
        """The position in words for messages, such as `line 3`."""
        return f"{self.counted_in} {self.line}"

    def text(self, column: str) -> str:
        """The value of a column as text. Raises InvalidData if the row has no value there."""
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        return value if isinstance(value, str) else str(value)


def have_answers(rows: Sequence[Row], task: TaskWording) -> bool:
    """Whether at least one row has its right answer: a label, or the target text of a generation task."""
    column = answer_column(task)
    return any(row.values.get(column) is not None for row in rows)


def answer_column(task: TaskWording) -> str:
    """The column that holds the right answers of a resolved task."""
    return ANSWER_COLUMNS[task.kind or TaskKind.classification]


def check_rows(rows: Sequence[Row], task: TaskWording, *, answered: bool = True) -> None:
    """Check that every row has what the resolved task needs. Answers are checked only where `answered` is true.

    Raises InvalidTemplate if no row has a column of the template, InvalidData if one row lacks a column, and
    UnknownLabel if a row has a label that the task does not name.
    """
    columns = sorted(template_fields(task.template or ""))
    for column in columns:
        if all(row.values.get(column) is None for row in rows):
            raise _missing_column(column, rows[0])
    for row in rows:
        for column in (*columns, answer_column(task)) if answered else columns:
            row.text(column)
        if answered and task.labels is not None:
            _check_label(row, task.labels)


def _missing_column(column: str, first: Row) -> InvalidTemplate:
    message = (
        f"the template names the column {column!r}, which no row has; the first row has "
        f"{', '.join(sorted(first.values)) or 'no columns'}"
    )
    return InvalidTemplate(message, param="task.template")


def _check_label(row: Row, labels: dict[str, str]) -> None:
    label = row.text(LABEL_COLUMN)
    if label not in labels:
        message = f"{row.position} has the label {label!r}, which `task.labels` does not name: it names"
        raise UnknownLabel(f"{message} {', '.join(labels)}")
