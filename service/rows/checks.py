"""What a task needs of its rows. The API checks inline rows with it, the worker all rows."""

from collections.abc import Mapping, Sequence

from service.contract import messages
from service.contract.errors import InvalidData, InvalidTemplate, UnknownLabel
from service.contract.options import TaskKind, TaskMetric
from service.contract.request.presets import (
    ANSWER_COLUMNS,
    LABEL_COLUMN,
    WORDS_COLUMN,
    template_fields,
)
from service.contract.request.task import TaskWording
from service.rows.conversations import check_conversations
from service.rows.row import Row
from service.rows.second_texts import check_texts

TEXT_COLUMN = "text"  # of rows of plain texts
OUTSIDE = "O"  # the tag of a word that belongs to no entity


def have_answers(rows: Sequence[Row], task: TaskWording) -> bool:
    """Whether at least one row has its right answer: a label, the target text of a generation task, or an assistant's
    message at its end."""
    column = task.messages
    if column is not None:
        return any(messages.is_answered(row.conversation(column)) for row in rows)
    column = answer_column(task)
    return column is None or any(row.values.get(column) is not None for row in rows)


def shown_texts(row: Row, task: TaskWording, *, answered: bool) -> dict[str, str]:
    """What a report shows of an evaluation row: its words, the columns of the template, or the last message asked."""
    if task.kind is TaskKind.token_classification:
        return {WORDS_COLUMN: " ".join(row.texts(WORDS_COLUMN))}
    if task.messages is None:
        return {column: row.text(column) for column in sorted(template_fields(task.template or ""))}
    last = messages.asked(row.conversation(task.messages), answered=answered)[-1]
    return {last.role: last.content}


def answer_column(task: TaskWording) -> str | None:
    """The column that holds the right answers of a resolved task; None for plain texts, which need no others."""
    return ANSWER_COLUMNS.get(task.kind or TaskKind.classification)


def needed_columns(task: TaskWording, *, answered: bool) -> set[str]:
    """The columns that the rows of a resolved task must have."""
    if task.messages is not None:
        return {task.messages}
    asked = {WORDS_COLUMN} if task.kind is TaskKind.token_classification else {*template_fields(task.template or "")}
    column = answer_column(task)
    return asked | ({column} if answered and column is not None else set())


def plain_texts(rows: Sequence[Row]) -> list[str]:
    """The texts of rows that have nothing else. Raises InvalidData for a row without one."""
    return [row.text(TEXT_COLUMN) for row in rows]


def check_rows(rows: Sequence[Row], task: TaskWording, *, answered: bool = True) -> None:
    """Check that every row has what the resolved task needs. Answers are checked only where `answered` is true.

    Raises InvalidTemplate if no row has a column of the template, InvalidData if one row lacks a column, has a
    conversation that cannot be read, no number where the task is a regression, no list where several labels may be
    right or not a tag for each word, and UnknownLabel if a row has a label that the task does not name. The rows of an
    embedding are checked by `check_texts`.
    """
    if task.messages is not None:
        check_conversations(rows, task.labels, task.messages, answered=answered)
        return
    if task.kind is TaskKind.token_classification:
        _check_tagged(rows, task, answered=answered)
        return
    columns = sorted(template_fields(task.template or ""))
    for column in columns:
        if all(row.values.get(column) is None for row in rows):
            raise _missing_column(column, rows[0])
    for row in rows:
        for column in columns:
            row.text(column)
        if answered and task.kind is not TaskKind.embedding:
            _check_answer(row, task)
    if task.kind is TaskKind.embedding:
        check_texts(rows, task, answered=answered)
    if answered and task.kind is TaskKind.multi_label and not any(row.labels(LABEL_COLUMN) for row in rows):
        raise InvalidData("none of the rows has a label, so that there is no F1 score: give rows with labels")


def _check_answer(row: Row, task: TaskWording) -> None:
    if task.kind is TaskKind.language_modelling:
        return
    if task.kind is TaskKind.generation:
        row.targets()
    elif task.kind is TaskKind.regression:
        row.number(LABEL_COLUMN)
    elif task.kind is TaskKind.multi_label:
        for label in row.labels(LABEL_COLUMN):
            _check_label(row, label, task.labels)
    else:
        _check_label(row, row.text(LABEL_COLUMN), task.labels)


def _missing_column(column: str, first: Row) -> InvalidTemplate:
    message = f"the template names the column {column!r}, which no row has; {columns_of(first)}"
    return InvalidTemplate(message, param="task.template")


def columns_of(first: Row) -> str:
    """The columns of the first row, for a message."""
    return f"the first row has {', '.join(sorted(first.values)) or 'no columns'}"


def labels_of(row: Row, task: TaskWording) -> list[str]:
    """The labels of a row that may have several: one for each word, or those that are right."""
    is_tagged = task.kind is TaskKind.token_classification
    return row.texts(ANSWER_COLUMNS[TaskKind.token_classification]) if is_tagged else row.labels(LABEL_COLUMN)


def _check_tagged(rows: Sequence[Row], task: TaskWording, *, answered: bool) -> None:
    for row in rows:
        words = row.texts(WORDS_COLUMN)
        if answered:
            _check_tags(row, len(words), task)
    if answered and task.metric is TaskMetric.entity_f1 and not any(_has_entity(row, task) for row in rows):
        message = f"every word of the rows has the tag {OUTSIDE}, so that there is no F1 score: give rows with entities"
        raise InvalidData(message)


def _check_tags(row: Row, words: int, task: TaskWording) -> None:
    tags = labels_of(row, task)
    if len(tags) != words:
        found = f"{words} words in {WORDS_COLUMN!r} and {len(tags)} in {answer_column(task)!r}"
        raise InvalidData(f"{row.position} has {found}: give a tag for each word")
    for tag in tags:
        _check_label(row, tag, task.labels)


def _has_entity(row: Row, task: TaskWording) -> bool:
    return any((task.labels or {}).get(tag, tag) != OUTSIDE for tag in labels_of(row, task))


def _check_label(row: Row, label: str, labels: Mapping[str, str] | None) -> None:
    if labels is not None and label not in labels:
        message = f"{row.position} has the label {label!r}, which `task.labels` does not name: it names"
        raise UnknownLabel(f"{message} {', '.join(labels)}")
