"""A row of a data set: its columns, and what each kind of task reads of them."""

from dataclasses import dataclass

from service.contract import messages
from service.contract.errors import InvalidData
from service.contract.messages import Message
from service.contract.request.presets import LABEL_COLUMN, TARGET_COLUMN
from service.contract.row_values import RowValues, as_number, as_text

MAX_SHOWN = 40  # characters of a value in a message


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
        found = "" if isinstance(value, list) else f", and has {shown(as_text(value))}"
        raise InvalidData(f"{self.position}: the column {column!r} must have a finite number{found}")


def shown(text: str) -> str:
    """A value of a row for a message."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")
