"""Uploaded data sets: what comes in any format is stored as the same rows, and what cannot be used is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.contract.errors import BodyTooLarge, InvalidData, InvalidRequest, NotFound
from service.infrastructure.redis_keys import EXPIRIES
from service.storage.datasets import Uploads
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from service.storage.row_formats import Content, convert
from service.tenants.storage_quota import StoredBytes

LINES, CSV, PARQUET = "application/jsonl", "text/csv", "application/vnd.apache.parquet"
ROWS = [{"text": "a fine film", "label": "positive"}, {"text": 'not, "really"\ngood', "label": "negative"}]
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def uploads(redis: Redis, storage: Storage) -> Uploads:
    return Uploads(redis, storage, StoredBytes(redis))


def converted(directory: Path, body: bytes, media_type: str, max_bytes: int = 10**6) -> tuple[Content, list[Any]]:
    source, target = directory / "source", directory / "target"
    source.write_bytes(body)
    content = convert(source, media_type, target, max_bytes=max_bytes)
    return content, [json.loads(line) for line in target.read_text().split("\n") if line]


def add(uploads: Uploads, directory: Path, tenant: str = "search") -> str:
    content, _ = converted(directory, b'{"text": "a"}\n', LINES)
    return uploads.add(directory / "target", content, tenant, name="reviews", days=1).id


@pytest.mark.parametrize("media_type", [LINES, CSV, PARQUET])
def test_every_format_gives_the_same_rows(tmp_path: Path, media_type: str) -> None:
    body = tmp_path / "body"
    if media_type == LINES:
        body.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS))
    elif media_type == CSV:
        body.write_text('text,label\na fine film,positive\n"not, ""really""\ngood",negative\n')
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), body)
    content, rows = converted(tmp_path, body.read_bytes(), media_type)
    assert rows == ROWS
    assert (content.rows, content.columns) == (2, ["text", "label"])
    assert content.size == (tmp_path / "target").stat().st_size


@given(
    rows=st.lists(
        st.dictionaries(
            st.text(st.characters(codec="utf-8")), VALUES | st.text(st.characters(codec="utf-8")), min_size=1
        ),
        min_size=1,
    )
)
def test_rows_in_json_lines_come_out_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    _, found = converted(tmp_path_factory.mktemp("rows"), body, LINES)
    assert found == rows


@pytest.mark.parametrize(
    ("media_type", "body", "reason"),
    [
        (LINES, b"", "no rows"),
        (LINES, b"\n\n", "no rows"),
        (LINES, b'{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        (LINES, b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        (LINES, b'{"a": NaN}', "line 1 is not JSON"),
        (LINES, b'{"a": [1]}', "row 1: the column 'a'"),
        (LINES, b'{"a": "\xff"}', "line 1 is not JSON in UTF-8"),
        (LINES, b'{"a": "\\ud800"}', "row 1 holds"),
        (LINES, b'{"a": ' * 100_000, "line 1"),
        (LINES, b'{"a": "' + b"x" * 2**20 + b'"}', "line 1 is longer"),
        (CSV, b"", "no rows"),
        (CSV, b"text,label\n", "no rows"),
        (CSV, b"text,label\none\n", "line 2 has more or fewer columns"),
        (CSV, b"text,label\none,two,three\n", "line 2 has more or fewer columns"),
        (CSV, b"text\n\xff\n", "is not CSV in UTF-8"),
        (CSV, b'text\n"open', "is not CSV"),
        (PARQUET, b"", "not Parquet"),
        (PARQUET, b"PAR1 and then nothing PAR1", "not Parquet"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_with_their_place(
    tmp_path: Path, media_type: str, body: bytes, reason: str
) -> None:
    with pytest.raises(InvalidData, match=reason):
        converted(tmp_path, body, media_type)


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"\xff", math.inf])
def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path, value: object) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "other": [value]}), tmp_path / "body")
    with pytest.raises(InvalidData, match="row 1"):
        converted(tmp_path, (tmp_path / "body").read_bytes(), PARQUET)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 1000] * 5000}), tmp_path / "body")
    body = (tmp_path / "body").read_bytes()
    assert len(body) < 100_000
    with pytest.raises(BodyTooLarge):
        converted(tmp_path, body, PARQUET)


def test_a_stored_data_set_is_listed_read_counted_and_deleted(
    uploads: Uploads, storage: Storage, redis: Redis, tmp_path: Path
) -> None:
    dataset_id = add(uploads, tmp_path)
    assert [dataset.id for dataset in uploads.page("search", cursor=None, limit=10).data] == [dataset_id]
    assert storage.get_bytes(dataset_key("search", dataset_id)) == b'{"text": "a"}\n'
    assert StoredBytes(redis).used("search") == 14
    uploads.delete("search", dataset_id)
    assert uploads.page("search", cursor=None, limit=10).data == []
    assert not storage.exists(dataset_key("search", dataset_id))
    assert StoredBytes(redis).used("search") == 0
    assert not redis.exists(EXPIRIES)


def test_another_tenants_data_set_does_not_exist(uploads: Uploads, tmp_path: Path) -> None:
    dataset_id = add(uploads, tmp_path, tenant="search")
    assert uploads.page("other", cursor=None, limit=10).data == []
    for look in (uploads.get, uploads.delete):
        with pytest.raises(NotFound):
            look("other", dataset_id)
    assert uploads.get("search", dataset_id).name == "reviews"


def test_pages_hold_every_data_set_once(uploads: Uploads, tmp_path: Path) -> None:
    ids = [add(uploads, tmp_path) for _ in range(5)]
    found, cursor = [], None
    while True:
        page = uploads.page("search", cursor=cursor, limit=2)
        found += [dataset.id for dataset in page.data]
        cursor = page.next_cursor
        if not page.has_more:
            break
    assert sorted(found) == sorted(ids)
    with pytest.raises(InvalidRequest):
        uploads.page("search", cursor="nonsense", limit=2)
