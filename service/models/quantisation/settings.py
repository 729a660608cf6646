"""Reads the fields of a `quantization_config`, and says which of their values cannot be dequantised."""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]


class NotDequantised(ValueError):
    """Settings that cannot be dequantised; the text says which."""


def one_of(settings: Settings, field: str, allowed: tuple[Any, ...], default: Any = None) -> Any:
    """The value of a field. Raises NotDequantised where it is none of the allowed ones."""
    value = settings.get(field)
    value = default if value is None else value
    if not any(type(value) is type(each) and value == each for each in allowed):
        raise NotDequantised(f"its {field} {value!r} is not dequantised")
    return value


def without(settings: Settings, *fields: str) -> None:
    """Raise NotDequantised for the first of the fields that is set."""
    for field in fields:
        if settings.get(field):
            raise NotDequantised(f"its {field} {settings[field]!r} is not dequantised")


def pair(value: object, field: str) -> tuple[int, int]:
    """Two sizes, also in the older form "128x128"."""
    sizes = [int(size) if size.isdecimal() else 0 for size in value.split("x")] if isinstance(value, str) else value
    match sizes:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
    raise NotDequantised(f"its {field} {value!r} is not dequantised")
