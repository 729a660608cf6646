"""Uploaded data sets: stored, listed by tenant, counted against the quota, deleted."""

from pathlib import Path

import pytest
from redis import Redis

from service.contract.errors import InvalidRequest, NotFound
from service.infrastructure.redis_keys import EXPIRIES
from service.storage.datasets import Uploads
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from service.storage.row_formats import FORMAT_BY_ENDING, convert
from service.tenants.storage_quota import StoredBytes


@pytest.fixture
def uploads(redis: Redis, storage: Storage) -> Uploads:
    return Uploads(redis, storage, StoredBytes(redis))


def add(uploads: Uploads, directory: Path, tenant: str = "search") -> str:
    """Store a data set of one row; its id."""
    source, target = directory / "source.jsonl", directory / "target"
    source.write_bytes(b'{"text": "a"}\n')
    content = convert(source, FORMAT_BY_ENDING[".jsonl"], target, max_bytes=1000)
    return uploads.add(target, content, tenant, name="reviews", days=1).id


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
