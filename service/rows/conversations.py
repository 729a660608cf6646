"""The conversations of a task with `messages`: their last answers, and what the task needs of them."""

from collections.abc import Mapping, Sequence

from service.contract import messages
from service.contract.errors import InvalidData, UnknownLabel
from service.contract.messages import Message
from service.rows.row import Row


def labels_by_word(labels: Mapping[str, str]) -> dict[str | None, str]:
    """Answer word -> label."""
    return {word.strip(): label for label, word in labels.items()}


def last_answer(conversation: Sequence[Message]) -> str | None:
    """The text of the last message of the assistant that counts; None where there is none."""
    places = messages.answers(conversation)
    return conversation[places[-1]].content.strip() if places else None


def check_conversations(rows: Sequence[Row], labels: Mapping[str, str] | None, column: str, *, answered: bool) -> None:
    """Raise InvalidData or UnknownLabel for rows without the answers that a task with these labels needs."""
    label_of = labels_by_word(labels or {})
    for row in rows:
        answer = last_answer(row.conversation(column))
        place = f"{row.position}, column {column!r}"
        if answered and answer is None:
            raise InvalidData(f"{place}: no message of the assistant is an answer to learn from: add one")
        if answered and labels is not None and answer not in label_of:
            message = f"{place}: the last answer {answer!r} is none of the words of `task.labels`:"
            raise UnknownLabel(f"{message} {', '.join(labels.values())}")
