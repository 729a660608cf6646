"""Reads the rows of JSON Lines, CSV and Parquet files. Uploads and the worker read by these rules alone."""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from service.contract.errors import BodyTooLarge, InvalidData
from service.contract.request.presets import TARGET_COLUMN
from service.contract.row_values import RowValues, usable_values
from service.rows.labels import CLASS_NAME
from service.rows.row import Row

MAX_LINE_BYTES = 2**20  # of a line of JSON Lines
BATCH_ROWS = 1000  # of a Parquet file, held in memory together

HUGGING_FACE = b"huggingface"  # the key under which the library `datasets` describes the columns of a Parquet file


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


def convert(
    source: Path, row_format: RowFormat, target: Path, *, max_bytes: int, target_column: str | None = None
) -> Content:
    """Write the rows of `source` to `target` as JSON Lines, with at most one batch of rows in memory.

    The column `target_column` becomes `target`. Raises InvalidData as `read_rows` does and where `target_column` is no
    column or there is a `target` beside it, and BodyTooLarge if the rows take more than `max_bytes` bytes.
    """
    digest, size, rows, columns = hashlib.sha256(), 0, 0, dict[str, None]()
    with target.open("wb") as file:
        for row, line in _rows_with_lines(source, row_format, target_column):
            size += len(line)
            if size > max_bytes:
                message = f"the rows take more than {max_bytes} bytes as JSON Lines: split the data set"
                raise BodyTooLarge(message)
            digest.update(line)
            file.write(line)
            rows += 1
            columns.update(dict.fromkeys(row.values))
    if target_column is not None and TARGET_COLUMN not in columns:
        raise InvalidData(f"no row has the column {target_column!r}: the rows have {', '.join(columns)}")
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

    Raises InvalidData for a character that UTF-8 cannot hold, and for a line of more than `MAX_LINE_BYTES`.
    """
    try:
        line = json_line(row.values)
    except ValueError as error:
        raise InvalidData(f"{row.position} holds a character that UTF-8 cannot hold") from error
    if len(line) > MAX_LINE_BYTES:
        raise InvalidData(_too_long(row.position))
    return line


def _too_long(position: str) -> str:
    return f"{position} takes more than {MAX_LINE_BYTES} bytes as a line of JSON Lines: shorten it"


def json_line(values: RowValues) -> bytes:
    """A row as a line of JSON Lines. Raises ValueError for characters that UTF-8 cannot hold, and for NaN."""
    return (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _rows_with_lines(
    path: Path, row_format: RowFormat, target_column: str | None = None
) -> Iterator[tuple[Row, bytes]]:
    """The rows of a file, each with its line of JSON Lines. Raises as `convert`."""
    number = 0
    for number, values in row_format.read(path):
        row = Row(usable_values(values), number, row_format.counted_in)
        if target_column is not None and target_column != TARGET_COLUMN:
            row = _with_target(row, target_column)
        yield row, checked_line(row)
    if number == 0:
        raise InvalidData("the data set holds no rows")


def _with_target(row: Row, column: str) -> Row:
    """The row with the name `target` for a column. Raises InvalidData for a row that has another column `target`."""
    if TARGET_COLUMN in row.values:
        message = f"{row.position} has a column {TARGET_COLUMN!r} beside {column!r}"
        raise InvalidData(f"{message}: give it another name, or name no target column")
    return replace(row, values={TARGET_COLUMN if name == column else name: value for name, value in row.values.items()})


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
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"line {number} is not JSON in UTF-8") from error
    if not isinstance(values, dict):
        raise InvalidData(f"line {number} is not a JSON object")
    return values


# --- CSV -----------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(MAX_LINE_BYTES)  # the library's own limit is an eighth of it
        reader = csv.DictReader(file, strict=True)
        try:
            _check_header(list(reader.fieldnames or ()))
            for values in reader:
                if None in values or None in values.values():
                    message = f"line {reader.line_num} has more or fewer columns than the header"
                    raise InvalidData(f"{message}, which has {len(reader.fieldnames or ())}")
                yield reader.line_num, values
        except (csv.Error, UnicodeDecodeError) as error:
            if "field larger than field limit" in str(error):
                raise InvalidData(_too_long(f"line {reader.line_num + 1}")) from error
            raise InvalidData(f"line {reader.line_num + 1} is not CSV in UTF-8: {error}") from error


def _check_header(columns: list[str]) -> None:
    repeated = [column for column in columns if columns.count(column) > 1]
    if repeated:
        raise InvalidData(f"the file has more than one column with the name {repeated[0]!r}: rename one of them")


# --- Parquet -------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet  # not at the top: the command line reads the table of formats, and has no pyarrow

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names)
            classes = _class_names(file.schema_arrow)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield number, values | _names_of(values, classes)
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidData("the data is not a complete Parquet file") from error


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Column -> the names of its classes, where the library `datasets` has written a ClassLabel of integers."""
    try:
        described = json.loads((schema.metadata or {}).get(HUGGING_FACE, b"{}"))
        features = described.get("info", {}).get("features", {})
        found = {column: _names(feature) for column, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError):
        return {}
    columns = set(schema.names)
    return {
        column: [str(name) for name in names]
        for column, names in found.items()
        if isinstance(names, list) and column in columns and CLASS_NAME.format(column) not in columns
    }


def _names(feature: Mapping[str, Any]) -> Any:
    """The class names of a column, or of the entries of a column of lists."""
    inner = feature.get("feature")
    return (inner if isinstance(inner, dict) else feature).get("names")


def _names_of(values: Mapping[str, Any], classes: Mapping[str, list[str]]) -> dict[str, Any]:
    """The class names of a row's integers, or lists of them, each under the name of its column and `_name`."""
    found: dict[str, Any] = {}
    for column, names in classes.items():
        value = values[column]
        numbers = value if isinstance(value, list) else [value]
        if all(isinstance(number, int) and 0 <= number < len(names) for number in numbers):
            texts = [names[number] for number in numbers]
            found[CLASS_NAME.format(column)] = texts if isinstance(value, list) else texts[0]
    return found


FORMATS = (
    RowFormat(".jsonl", ("application/jsonl", "application/x-ndjson", "application/x-jsonlines"), _read_json_lines),
    RowFormat(".csv", ("text/csv",), _read_csv),
    RowFormat(".parquet", ("application/vnd.apache.parquet",), _read_parquet, counted_in="row"),
)
FORMAT_BY_ENDING = {row_format.ending: row_format for row_format in FORMATS}
FORMAT_BY_MEDIA_TYPE = {media_type: row_format for row_format in FORMATS for media_type in row_format.media_types}
