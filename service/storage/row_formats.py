"""Reads the rows of JSON Lines, CSV and Parquet files. Uploads and the worker read by these rules alone."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow.parquet
from pydantic import TypeAdapter, ValidationError

from service.contract.errors import BodyTooLarge, InvalidData
from service.contract.fields import RowValues
from service.contract.rows import Row

MAX_LINE_BYTES = 2**20  # of a line of JSON Lines
BATCH_ROWS = 1000  # of a Parquet file, held in memory together

ROW_VALUES: TypeAdapter[RowValues] = TypeAdapter(RowValues)


class RowFormat(NamedTuple):
    """A file format of rows. `read` yields each row's columns with its line, or with its number in Parquet."""

    ending: str
    media_types: tuple[str, ...]
    read: Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]
    counted_in: str = "line"


@dataclass(frozen=True)
class Content:
    """Counts and digest of a file of rows that was converted to JSON Lines."""

    rows: int
    columns: list[str]
    size: int
    sha256: str


def convert(source: Path, row_format: RowFormat, target: Path, *, max_bytes: int) -> Content:
    """Write the rows of `source` to `target` as JSON Lines, with at most one batch of rows in memory.

    Raises InvalidData as `read_rows` does, and BodyTooLarge if the rows take more than `max_bytes` bytes.
    """
    digest, size, rows, columns = hashlib.sha256(), 0, 0, dict[str, None]()
    with target.open("wb") as file:
        for row, line in _rows_with_lines(source, row_format):
            size += len(line)
            if size > max_bytes:
                message = f"the rows take more than {max_bytes} bytes as JSON Lines: split the data set"
                raise BodyTooLarge(message)
            digest.update(line)
            file.write(line)
            rows += 1
            columns.update(dict.fromkeys(row.values))
    return Content(rows, list(columns), size, digest.hexdigest())


def read_file(path: Path) -> list[Row]:
    """All rows of a file whose name ends in .jsonl, .csv or .parquet. Raises InvalidData as `read_rows` does."""
    row_format = FORMAT_BY_ENDING.get(path.suffix.lower())
    if row_format is None:
        raise InvalidData(f"the name {path.name!r} does not end in one of {', '.join(FORMAT_BY_ENDING)}")
    return list(read_rows(path, row_format))


def read_rows(path: Path, row_format: RowFormat) -> Iterator[Row]:
    """The rows of a file. Raises InvalidData, with the line or row, for a file that breaks a rule of its format, for a
    row that `checked_line` refuses, and for a file without rows."""
    for row, _ in _rows_with_lines(path, row_format):
        yield row


def checked_line(row: Row) -> bytes:
    """The row as a line of JSON Lines, which `read_rows` reads again.

    Raises InvalidData for a value that is neither text, number, truth value nor null, for a number or a character that
    JSON in UTF-8 cannot hold, and for a line of more than `MAX_LINE_BYTES`.
    """
    try:
        ROW_VALUES.validate_python(row.values, strict=True)
        line = json_line(row.values)
    except ValidationError as error:
        column = error.errors()[0]["loc"][0]
        message = f"{row.position}: the value of the column {column!r} is neither text, a number, true, false nor null"
        raise InvalidData(message) from error
    except ValueError as error:
        raise InvalidData(f"{row.position} holds a number or a character that JSON in UTF-8 cannot hold") from error
    if len(line) > MAX_LINE_BYTES:
        message = f"{row.position} takes more than {MAX_LINE_BYTES} bytes as a line of JSON Lines: shorten it"
        raise InvalidData(message)
    return line


def json_line(values: RowValues) -> bytes:
    """A row as a line of JSON Lines. Raises ValueError for characters that UTF-8 cannot hold, and for NaN."""
    return (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _rows_with_lines(path: Path, row_format: RowFormat) -> Iterator[tuple[Row, bytes]]:
    """The rows of a file, each with its line of JSON Lines. Raises as `read_rows`."""
    number = 0
    for number, values in row_format.read(path):
        row = Row(values, number, row_format.counted_in)
        yield row, checked_line(row)
    if number == 0:
        raise InvalidData("the data set holds no rows")


# --- JSON Lines ----------------------------------------------------------------------------------------------------


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InvalidData(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
            if line.strip():
                yield number, _parse_json(line, number)


def _parse_json(line: bytes, number: int) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"line {number} is not JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise InvalidData(f"line {number} is not a JSON object")
    return values


def _refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError(f"{name} is not a JSON number")


# --- CSV -----------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_header(list(reader.fieldnames or ()))
            for values in reader:
                if None in values or None in values.values():
                    message = f"line {reader.line_num} has more or fewer columns than the header"
                    raise InvalidData(f"{message}, which has {len(reader.fieldnames or ())}")
                yield reader.line_num, values
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidData(f"line {reader.line_num + 1} is not CSV in UTF-8: {error}") from error


def _check_header(columns: list[str]) -> None:
    repeated = [column for column in columns if columns.count(column) > 1]
    if repeated:
        raise InvalidData(f"the file has more than one column with the name {repeated[0]!r}: rename one of them")


# --- Parquet -------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidData("the data is not a complete Parquet file") from error


FORMATS = (
    RowFormat(".jsonl", ("application/jsonl", "application/x-ndjson", "application/x-jsonlines"), _read_json_lines),
    RowFormat(".csv", ("text/csv",), _read_csv),
    RowFormat(".parquet", ("application/vnd.apache.parquet",), _read_parquet, counted_in="row"),
)
FORMAT_BY_ENDING = {row_format.ending: row_format for row_format in FORMATS}
FORMAT_BY_MEDIA_TYPE = {media_type: row_format for row_format in FORMATS for media_type in row_format.media_types}
