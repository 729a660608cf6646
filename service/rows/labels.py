"""The labels of rows, as a task names them, and as the head of a model has them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.contract.errors import InvalidRequest, UnknownLabel
from service.contract.options import TaskKind
from service.contract.request.presets import ANSWER_COLUMNS, LABEL_COLUMN, needs_answers
from service.contract.request.task import TaskWording
from service.contract.row_values import UNUSABLE_LABELS, as_text, spelled_alike
from service.rows.checks import check_rows, columns_of, labels_of
from service.rows.conversations import labels_by_word, last_answer
from service.rows.row import Row, shown

CLASS_NAME = "{}_name"  # the column with the class names of a column of integers, where a Parquet file has them


def with_named_labels(rows: Sequence[Row], task: TaskWording) -> list[Row]:
    """The rows with the labels as the resolved task names them: true for `True`, 1 for `1.0`, a class by its name. The
    label of a conversation is the one whose word its last answer is.

    A label that the task does not name stays, for `check_rows` to refuse. Raises what `check_rows` does for a row whose
    conversation cannot be read, or does not answer although the task needs it.
    """
    if task.messages is not None:
        return _with_last_answers(rows, task, task.messages)
    if task.labels is None:
        return list(rows)
    alike = {spelled_alike(label): label for label in reversed(task.labels)}
    name = _NAMED.get(task.kind or TaskKind.classification, _with_named_label)
    return [name(row, task.labels, alike) for row in rows]


def _with_named_label(row: Row, labels: Mapping[str, str], alike: Mapping[str, str]) -> Row:
    for column in (LABEL_COLUMN, CLASS_NAME.format(LABEL_COLUMN)):
        value = row.values.get(column)
        if value is None or isinstance(value, list):
            continue
        text = as_text(value)
        label = text if text in labels else alike.get(spelled_alike(text))
        if label is not None:
            return replace(row, values=row.values | {LABEL_COLUMN: label})
    return row


def _with_several_named(row: Row, labels: Mapping[str, str], alike: Mapping[str, str]) -> Row:
    for column in (LABEL_COLUMN, CLASS_NAME.format(LABEL_COLUMN)):
        value = row.values.get(column)
        if not isinstance(value, str | list) or value == UNUSABLE_LABELS:
            continue
        found = [text if text in labels else alike.get(spelled_alike(text)) for text in row.labels(column)]
        if None not in found:
            return replace(row, values=row.values | {LABEL_COLUMN: found})
    return row


def _with_named_tags(row: Row, labels: Mapping[str, str], alike: Mapping[str, str]) -> Row:
    column = ANSWER_COLUMNS[TaskKind.token_classification]
    value = row.values.get(column)
    if not isinstance(value, list) or value == UNUSABLE_LABELS:
        return row
    tags = [text if text in labels else alike.get(spelled_alike(text), text) for text in map(as_text, value)]
    return replace(row, values=row.values | {column: tags})


# Kinds of tasks whose rows have several labels -> the function that names them.
_NAMED = {TaskKind.multi_label: _with_several_named, TaskKind.token_classification: _with_named_tags}


def _with_last_answers(rows: Sequence[Row], task: TaskWording, column: str) -> list[Row]:
    if all(row.values.get(column) is None for row in rows):
        message = f"`messages` names the column {column!r}, which no row has; {columns_of(rows[0])}"
        raise InvalidRequest(message, param="task.messages")
    check_rows(rows, task, answered=needs_answers(task, "", has_some=False))
    if task.labels is None:
        return list(rows)
    label_of = labels_by_word(task.labels)
    return [
        replace(row, values=row.values | {LABEL_COLUMN: label_of.get(last_answer(row.conversation(column)))})
        for row in rows
    ]


def check_classes(rows: Sequence[Row], task: TaskWording) -> None:
    """Raise UnknownLabel for a label of a row that the head lacks; `labels` of the task are the classes of the head."""
    for row in rows:
        for label in labels_of(row, task):
            if label not in (task.labels or {}):
                message = f"{row.position} has the label {shown(label)}, which the model's head lacks; it has"
                raise UnknownLabel(f"{message} {', '.join(task.labels or {})}", param="task.labels")
