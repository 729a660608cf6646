"""Reads JSON Lines, CSV and Parquet rows of an upload, and checks each row."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet
from pydantic import TypeAdapter, ValidationError

from service.contract.errors import BodyTooLarge, InvalidData
from service.contract.fields import Row

ROW: TypeAdapter[Row] = TypeAdapter(Row)


MAX_LINE_BYTES = 2**20


BATCH_ROWS = 1000


Numbered = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Content:
    """What a file of rows held."""

    rows: int
    columns: list[str]
    size: int
    sha256: str


def convert(source: Path, media_type: str, target: Path, *, max_bytes: int) -> Content:
    """Write the rows of `source` to `target` as JSON Lines; never more than one batch of them in memory.

    Raises InvalidData with the line's or row's number, BodyTooLarge where they unpack to more than `max_bytes`.
    """
    digest, size, rows, columns = hashlib.sha256(), 0, 0, dict[str, None]()
    with target.open("wb") as file:
        for number, values in READERS[media_type](source):
            line = _line(number, values)
            size += len(line)
            if size > max_bytes:
                raise BodyTooLarge(f"the rows unpack to more than {max_bytes} bytes; split the data set")
            digest.update(line)
            file.write(line)
            rows += 1
            columns.update(dict.fromkeys(values))
    if not rows:
        raise InvalidData("the data set holds no rows")
    return Content(rows, list(columns), size, digest.hexdigest())


def _line(number: int, values: dict[str, Any]) -> bytes:
    try:
        row = ROW.validate_python(values, strict=True)
        return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValidationError as error:
        column = error.errors()[0]["loc"][0]
        raise InvalidData(
            f"row {number}: the column {column!r} is neither text nor a number, a truth value or null"
        ) from error
    except ValueError as error:
        raise InvalidData(f"row {number} holds a number or a character that JSON cannot hold") from error


def _read_json_lines(path: Path) -> Iterator[Numbered]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InvalidData(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield number, _parse(line, number)


def _parse(line: bytes, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"line {number} is not JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise InvalidData(f"line {number} is not a JSON object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _read_csv(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for values in reader:
                if None in values or None in values.values():
                    raise InvalidData(f"line {reader.line_num} has more or fewer columns than the header")
                yield reader.line_num, values
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidData(f"line {reader.line_num + 1} is not CSV in UTF-8: {error}") from error


def _read_parquet(path: Path) -> Iterator[Numbered]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidData("the body is not Parquet, or not all of it") from error


JSON_LINES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    **dict.fromkeys(JSON_LINES, _read_json_lines),
    "text/csv": _read_csv,
    "application/vnd.apache.parquet": _read_parquet,
}
