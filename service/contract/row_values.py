"""The values of a row, by one set of rules for rows in a file, in an upload and in a request."""

import math
import re
from collections.abc import Mapping
from typing import Any

from service.contract.messages import kept_messages

# A value of a row: text, a number, true, false, null where it is missing, a list of texts or of messages, or UNUSABLE.
RowValues = dict[str, str | int | float | bool | list[Any] | None]

# Stands for a value that is none of these, such as a date or a list of numbers: harmless in a column that no task uses.
UNUSABLE: list[Any] = []
LIST_COLUMNS = ("label", "label_name", "tags")  # that may have lists of values
UNUSABLE_LABELS: list[Any] = [None]  # stands for other values in them, where an empty list means that there is no label
WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def usable_values(values: Mapping[str, Any]) -> RowValues:
    """The values of a row as they are kept: NaN is a missing value, and what no task can use becomes UNUSABLE."""
    return {
        column: _usable_labels(value) if column in LIST_COLUMNS else _usable(value) for column, value in values.items()
    }


def _usable_labels(value: Any) -> str | int | float | bool | list[Any] | None:
    if not isinstance(value, list):
        found = _usable(value)
        return UNUSABLE_LABELS if isinstance(found, list) else found
    labels = [_usable(label) for label in value]
    return UNUSABLE_LABELS if any(label is None or isinstance(label, list) for label in labels) else labels


def _usable(value: Any) -> str | int | float | bool | list[Any] | None:
    if value is None or isinstance(value, str | int):  # bool is an int
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else UNUSABLE
    if not isinstance(value, list):
        return UNUSABLE
    if all(isinstance(part, dict) and "role" in part for part in value):
        return kept_messages(value)
    return value if all(isinstance(part, str) for part in value) else UNUSABLE


def as_text(value: str | int | float | bool) -> str:
    """A value as text, in JSON's spelling: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_number(value: object) -> float | None:
    """A value as a finite number: a number, or a text that is one, as all values of a CSV file are. None for others."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not NUMBER.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:  # of a whole number beyond any float
        return None
    return number if math.isfinite(number) else None


def spelled_alike(text: str) -> str:
    """The one spelling of all texts that name the same label: `true` of True, `1` of 1.0."""
    whole = WHOLE_NUMBER.fullmatch(text)
    if whole:
        return whole[1]
    return text.lower() if text in ("True", "False") else text
