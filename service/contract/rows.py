"""A row of a data set, and what a task needs of its rows. The API checks inline rows with it, the worker all rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from service.contract import messages
from service.contract.errors import InvalidData, InvalidRequest, InvalidTemplate, UnknownLabel
from service.contract.messages import Message
from service.contract.options import TaskKind, TaskMetric
from service.contract.presets import (
    ANSWER_COLUMNS,
    LABEL_COLUMN,
    TARGET_COLUMN,
    WORDS_COLUMN,
    needs_answers,
    template_fields,
)
from service.contract.row_values import UNUSABLE_LABELS, RowValues, as_number, as_text, spelled_alike
from service.contract.second_texts import check_texts
from service.contract.task import TaskWording

OUTSIDE = "O"  # the tag of a word that belongs to no entity
MAX_SHOWN = 40  # characters of a value in a message
CLASS_NAME = "{}_name"  # the column with the class names of a column of integers, where a Parquet file has them


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
        """The value of a column as text. Raises InvalidData if the row has no value there, or one that is no text."""
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        if isinstance(value, list):
            what = "one label" if column == LABEL_COLUMN else "text, a number, true or false"
            raise InvalidData(f"{self.position}: the column {column!r}, which the task uses, must have {what}")
        return as_text(value)

    def targets(self) -> list[str]:
        """The right texts of a generation row, at least one. Raises InvalidData if there is none, or an empty one."""
        value = self.values.get(TARGET_COLUMN)
        found = value if isinstance(value, list) else [self.text(TARGET_COLUMN)]
        if not found or not all(isinstance(text, str) for text in found):
            message = f"{self.position}: the column {TARGET_COLUMN!r} must have a text, or a list of one or more texts"
            raise InvalidData(message)
        if not all(text.strip() for text in found):
            message = (
                f"{self.position} has an empty text in the column {TARGET_COLUMN!r}: give what the model is to write"
            )
            raise InvalidData(message)
        return found

    def conversation(self, column: str) -> list[Message]:
        """The messages in a column. Raises InvalidData, with the message, if the row has none that can be read."""
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        try:
            return messages.conversation(value)
        except InvalidData as error:
            raise InvalidData(f"{self.position}, column {column!r}: {error.message}") from error

    def labels(self, column: str) -> list[str]:
        """The labels in a column: those of a list, or the parts of a text between `|`, none where it is empty.

        Raises InvalidData for any other value.
        """
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        if isinstance(value, str):
            return [part.strip() for part in value.split("|")] if value.strip() else []
        if isinstance(value, list) and None not in value:
            return [as_text(label) for label in value]
        raise InvalidData(
            f"{self.position}: the column {column!r} must have a list of labels, or a text with `|` between them"
        )

    def texts(self, column: str) -> list[str]:
        """The list of texts in a column, as the words and the tags of a text are given.

        Raises InvalidData for any other value, an empty list, or an empty text in it.
        """
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        if not isinstance(value, list) or not value or None in value:
            raise InvalidData(f"{self.position}: the column {column!r} must have a list of one or more texts")
        found = [as_text(text) for text in value]
        if not all(text.strip() for text in found):
            raise InvalidData(f"{self.position}: the list in the column {column!r} has an empty text: leave it out")
        return found

    def number(self, column: str) -> float:
        """The value of a column as a number. Raises InvalidData if the row has no finite number there."""
        value = self.values.get(column)
        number = as_number(value)
        if number is not None:
            return number
        if value is None:
            raise InvalidData(f"{self.position} has no value in the column {column!r}")
        found = "" if isinstance(value, list) else f", and has {_shown(as_text(value))}"
        raise InvalidData(f"{self.position}: the column {column!r} must have a finite number{found}")


def _shown(text: str) -> str:
    """A value of a row for a message."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def have_answers(rows: Sequence[Row], task: TaskWording) -> bool:
    """Whether at least one row has its right answer: a label, the target text of a generation task, or an assistant's
    message at its end."""
    column = task.messages
    if column is not None:
        return any(messages.is_answered(row.conversation(column)) for row in rows)
    column = answer_column(task)
    return any(row.values.get(column) is not None for row in rows)


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
        message = f"`messages` names the column {column!r}, which no row has; {_columns_of(rows[0])}"
        raise InvalidRequest(message, param="task.messages")
    check_rows(rows, task, answered=needs_answers(task, "", has_some=False))
    if task.labels is None:
        return list(rows)
    label_of = _labels_by_word(task.labels)
    return [
        replace(row, values=row.values | {LABEL_COLUMN: label_of.get(_last_answer(row.conversation(column)))})
        for row in rows
    ]


def _labels_by_word(labels: Mapping[str, str]) -> dict[str | None, str]:
    return {word.strip(): label for label, word in labels.items()}


def _last_answer(conversation: Sequence[Message]) -> str | None:
    places = messages.answers(conversation)
    return conversation[places[-1]].content.strip() if places else None


def shown_texts(row: Row, task: TaskWording, *, answered: bool) -> dict[str, str]:
    """What a report shows of an evaluation row: the columns of the template, or the last message that asks."""
    if task.kind is TaskKind.token_classification:
        return {WORDS_COLUMN: " ".join(row.texts(WORDS_COLUMN))}
    if task.messages is None:
        return {column: row.text(column) for column in sorted(template_fields(task.template or ""))}
    last = messages.asked(row.conversation(task.messages), answered=answered)[-1]
    return {last.role: last.content}


def answer_column(task: TaskWording) -> str:
    """The column that holds the right answers of a resolved task."""
    return ANSWER_COLUMNS[task.kind or TaskKind.classification]


def needed_columns(task: TaskWording, *, answered: bool) -> set[str]:
    """The columns that the rows of a resolved task must have."""
    if task.messages is not None:
        return {task.messages}
    asked = {WORDS_COLUMN} if task.kind is TaskKind.token_classification else {*template_fields(task.template or "")}
    return asked | ({answer_column(task)} if answered else set())


def check_rows(rows: Sequence[Row], task: TaskWording, *, answered: bool = True) -> None:
    """Check that every row has what the resolved task needs. Answers are checked only where `answered` is true.

    Raises InvalidTemplate if no row has a column of the template, InvalidData if one row lacks a column, has a
    conversation that cannot be read, no number where the task is a regression, no list where several labels may be
    right or not a tag for each word, and UnknownLabel if a row has a label that the task does not name. The rows of an
    embedding are checked by `check_texts`.
    """
    if task.messages is not None:
        _check_conversations(rows, task.labels, task.messages, answered=answered)
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


def check_classes(rows: Sequence[Row], task: TaskWording) -> None:
    """Raise UnknownLabel for a label of a row that the head lacks; `labels` of the task are the classes of the head."""
    for row in rows:
        for label in _labels_of(row, task):
            if label not in (task.labels or {}):
                message = f"{row.position} has the label {_shown(label)}, which the model's head lacks; it has"
                raise UnknownLabel(f"{message} {', '.join(task.labels or {})}", param="task.labels")


def _labels_of(row: Row, task: TaskWording) -> list[str]:
    is_tagged = task.kind is TaskKind.token_classification
    return row.texts(answer_column(task)) if is_tagged else row.labels(LABEL_COLUMN)


def _check_tagged(rows: Sequence[Row], task: TaskWording, *, answered: bool) -> None:
    for row in rows:
        words = row.texts(WORDS_COLUMN)
        if answered:
            _check_tags(row, len(words), task)
    if answered and task.metric is TaskMetric.entity_f1 and not any(_has_entity(row, task) for row in rows):
        message = f"every word of the rows has the tag {OUTSIDE}, so that there is no F1 score: give rows with entities"
        raise InvalidData(message)


def _check_tags(row: Row, words: int, task: TaskWording) -> None:
    tags = _labels_of(row, task)
    if len(tags) != words:
        found = f"{words} words in {WORDS_COLUMN!r} and {len(tags)} in {answer_column(task)!r}"
        raise InvalidData(f"{row.position} has {found}: give a tag for each word")
    for tag in tags:
        _check_label(row, tag, task.labels)


def _has_entity(row: Row, task: TaskWording) -> bool:
    return any((task.labels or {}).get(tag, tag) != OUTSIDE for tag in _labels_of(row, task))


def _check_answer(row: Row, task: TaskWording) -> None:
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
    message = f"the template names the column {column!r}, which no row has; {_columns_of(first)}"
    return InvalidTemplate(message, param="task.template")


def _columns_of(first: Row) -> str:
    return f"the first row has {', '.join(sorted(first.values)) or 'no columns'}"


def _check_conversations(rows: Sequence[Row], labels: Mapping[str, str] | None, column: str, *, answered: bool) -> None:
    label_of = _labels_by_word(labels or {})
    for row in rows:
        answer = _last_answer(row.conversation(column))
        place = f"{row.position}, column {column!r}"
        if answered and answer is None:
            raise InvalidData(f"{place}: no message of the assistant is an answer to learn from: add one")
        if answered and labels is not None and answer not in label_of:
            message = f"{place}: the last answer {answer!r} is none of the words of `task.labels`:"
            raise UnknownLabel(f"{message} {', '.join(labels.values())}")


def _check_label(row: Row, label: str, labels: Mapping[str, str] | None) -> None:
    if labels is not None and label not in labels:
        message = f"{row.position} has the label {label!r}, which `task.labels` does not name: it names"
        raise UnknownLabel(f"{message} {', '.join(labels)}")
