"""Uploaded data sets: read row by row, checked, and stored as JSON Lines, whatever the format they came in.

Redis: `slim:{tenant}:datasets` (ids, ordered by their ULID) and `slim:{tenant}:dataset:{id}`.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, cast

import pyarrow
import pyarrow.parquet
from pydantic import TypeAdapter, ValidationError
from redis import Redis
from ulid import ULID

from service.contract.errors import BodyTooLarge, InvalidData, NotFound, TaskslimError
from service.contract.fields import Dataset, DatasetPage, Row
from service.jobs.state_machine import EXPIRIES
from service.jobs.store import check_job_id
from service.storage.object_store import Storage, dataset_key, dataset_prefix
from service.tenants.storage_quota import StoredBytes

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


class Uploads:
    """The data sets of all tenants."""

    def __init__(self, redis: Redis, storage: Storage, stored: StoredBytes) -> None:
        self._redis = redis
        self._storage = storage
        self._stored = stored

    def add(
        self, lines: Path, content: Content, tenant: str, *, name: str | None, days: float, quota: int | None = None
    ) -> Dataset:
        """Store a file that `convert` wrote. Raises `LimitExceeded` where it would take the tenant over `quota` bytes.

        What breaks in between leaves an expiry, by which it is found and deleted."""
        now = datetime.now(UTC)
        dataset_id = str(ULID())
        dataset = Dataset(
            id=dataset_id,
            uri=f"dataset://{dataset_id}",
            name=name,
            rows=content.rows,
            columns=content.columns,
            size=content.size,
            sha256=content.sha256,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        self._stored.reserve(tenant, _item(dataset_id), content.size, quota)
        self._redis.zadd(EXPIRIES, {f"dataset/{tenant}/{dataset_id}": int(dataset.expires_at.timestamp() * 1000)})
        try:
            self._storage.put_file(lines, dataset_key(tenant, dataset_id))
        except TaskslimError:
            self._stored.record(tenant, _item(dataset_id), 0)
            raise
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(record_key(tenant, dataset_id), dataset.model_dump_json())
            pipe.zadd(index_key(tenant), {dataset_id: 0})
            pipe.execute()
        return dataset

    def get(self, tenant: str, dataset_id: str) -> Dataset:
        """`NotFound` for another tenant's data set too."""
        text = cast(str | None, self._redis.get(record_key(tenant, dataset_id)))
        if text is None:
            raise NotFound(f"there is no data set {dataset_id!r}")
        return Dataset.model_validate_json(text)

    def page(self, tenant: str, *, cursor: str | None, limit: int) -> DatasetPage:
        """Newest first."""
        newest = f"({check_job_id(cursor)}" if cursor else "+"
        ids = cast(list[str], self._redis.zrevrangebylex(index_key(tenant), newest, "-", start=0, num=limit + 1))
        texts = self._redis.mget([record_key(tenant, dataset_id) for dataset_id in ids[:limit]]) if ids else []
        data = [Dataset.model_validate_json(text) for text in cast(list[str | None], texts) if text]
        more = len(ids) > limit
        return DatasetPage(data=data, next_cursor=ids[limit - 1] if more else None, has_more=more)

    def delete(self, tenant: str, dataset_id: str) -> None:
        """Raises `NotFound`. A job that has not read the rows yet will fail."""
        self.get(tenant, dataset_id)
        self.forget(tenant, dataset_id)

    def forget(self, tenant: str, dataset_id: str) -> None:
        """Delete what there is of a data set, files first, the record last."""
        self._storage.delete_prefix(dataset_prefix(tenant, dataset_id))
        self._stored.record(tenant, _item(dataset_id), 0)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(record_key(tenant, dataset_id))
            pipe.zrem(index_key(tenant), dataset_id)
            pipe.zrem(EXPIRIES, f"dataset/{tenant}/{dataset_id}")
            pipe.execute()


def index_key(tenant: str) -> str:
    return f"slim:{tenant}:datasets"


def record_key(tenant: str, dataset_id: str) -> str:
    return f"slim:{tenant}:dataset:{dataset_id}"


def _item(dataset_id: str) -> str:
    return f"dataset/{dataset_id}"


# --- formats -------------------------------------------------------------------------------------------------------


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
