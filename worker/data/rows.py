"""Rows of a data set: read with the line each came from, drawn by seed, split by label."""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from sklearn.model_selection import train_test_split

from service.contract.errors import InvalidData
from service.contract.fields import EVALUATION_SHARE


@dataclass(frozen=True)
class Row:
    """The columns of a row and where its file has it."""

    values: dict[str, Any]
    line: int

    def text(self, column: str) -> str:
        """A column as text. Raises InvalidData where the row lacks it."""
        value = self.values.get(column)
        if value is None:
            raise InvalidData(f"line {self.line} has no {column!r}")
        return value if isinstance(value, str) else str(value)


def read(path: Path) -> list[Row]:
    """The rows of a JSON Lines, CSV or Parquet file, told by its ending. Raises InvalidData."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidData(f"{path.name} does not end in one of {', '.join(READERS)}")
    rows = list(reader(path))
    if not rows:
        raise InvalidData(f"{path.name} holds no rows")
    return rows


def draw(rows: Sequence[Row], limit: int | None, seed: int) -> list[Row]:
    """`limit` rows without repetition, in their order; all of them where there are no more."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chosen = random.Random(seed).sample(range(len(rows)), limit)
    return [rows[index] for index in sorted(chosen)]


def draw_balanced(rows: Sequence[Row], limit: int | None, seed: int, label_column: str) -> list[Row]:
    """`limit` rows in their order, as many of each label as of any other, or one more.

    Fewer where the rarest label has no more; without a limit as many of each as of the rarest.
    """
    by_label: dict[str, list[Row]] = {}
    for row in random.Random(seed).sample(list(rows), len(rows)):
        by_label.setdefault(row.text(label_column), []).append(row)
    turns = [row for turn in zip(*by_label.values(), strict=False) for row in turn]
    return sorted(turns[:limit], key=lambda row: row.line)


def set_aside(rows: Sequence[Row], label_column: str | None, seed: int) -> tuple[list[Row], list[Row]]:
    """(what stays, a fifth set aside), by seed; with the same share of every label where a label column is given.

    Raises InvalidData where that leaves a label without a row on either side.
    """
    labels = [row.text(label_column) for row in rows] if label_column else None
    counts = Counter(labels or [""] * len(rows))
    if min(counts.values()) < 2:
        raise InvalidData(
            "too few rows to set a fifth aside for evaluation: give at least two of every label, or an evaluation set",
            param="task.evaluation",
        )
    size = max(-(-len(rows) // EVALUATION_SHARE), len(counts))
    stay, aside = train_test_split(range(len(rows)), test_size=size, random_state=seed, stratify=labels)
    return [rows[index] for index in sorted(stay)], [rows[index] for index in sorted(aside)]


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield Row(_parse_json(line, number), number)


def _parse_json(line: bytes, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"line {number} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise InvalidData(f"line {number} is not a JSON object")
    return values


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                if None in values:
                    raise InvalidData(f"line {reader.line_num} has more columns than the header")
                yield Row(values, reader.line_num)
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidData(f"line {reader.line_num + 1} is not CSV in UTF-8: {error}") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidData(f"{path.name} is not Parquet: {error}") from error
    for number, values in enumerate(table.to_pylist(), start=1):
        yield Row(values, number)


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
