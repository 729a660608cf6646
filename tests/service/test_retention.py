"""What has expired is deleted with everything that belongs to it; what is in use is not."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.errors import Conflict
from service.job_record import DEFAULT_TENANT, JobRecord, new_record
from service.limits import StoredBytes
from service.records import Records
from service.retention import Retention
from service.scores import ScoreSets
from service.storage import Storage, job_prefix
from service.transitions import EXPIRIES, job_key
from service.uploads import Content, Uploads
from tests.service.finished import finish

# What stays when every job and data set is gone: not about any of them.
LASTING = {"slim:figures", "slim:default:bytes", "slim:reconciler"}


@pytest.fixture
def retention(redis: Redis, records: Records, storage: Storage) -> Retention:
    stored = StoredBytes(redis)
    uploads, scores = Uploads(redis, storage, stored), ScoreSets(redis, storage, stored)
    return Retention(redis, records, uploads, scores, storage, stored)


@pytest.fixture
def job(client: TestClient, body: dict[str, Any], records: Records, storage: Storage) -> JobRecord:
    """A job that has succeeded, with inline rows, a webhook and files."""
    webhook = {"url": "https://hooks.example/"}
    record = records.get(DEFAULT_TENANT, client.post("/jobs", json=body | {"webhook": webhook}).json()["id"])
    finish(record, records, storage)
    return records.get(DEFAULT_TENANT, record.id)


def expire(redis: Redis) -> None:
    """As if everything's time had come."""
    for member in cast(list[str], redis.zrange(EXPIRIES, 0, -1)):
        redis.zadd(EXPIRIES, {member: 0})


def names(redis: Redis) -> set[str]:
    """Keys that are about some job or data set; RQ's own run out by themselves."""
    kept = {name for name in cast("list[str]", list(redis.scan_iter("slim:*"))) if name not in LASTING}
    return {name for name in kept if not name.startswith("slim:webhooks")}


def test_an_expired_job_is_gone_with_files_rows_events_and_keys(
    client: TestClient, job: JobRecord, redis: Redis, storage: Storage, retention: Retention
) -> None:
    assert storage.list("default/")
    assert retention.sweep() == 0
    expire(redis)
    assert retention.sweep() == 1
    assert client.get(f"/jobs/{job.id}").status_code == 404
    assert storage.list("default/") == []
    assert names(redis) == set()


def test_an_expired_data_set_is_gone(redis: Redis, storage: Storage, retention: Retention, tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b'{"text": "a"}\n')
    retention.uploads.add(lines, Content(1, ["text"], 14, ""), "search", name=None, days=1)
    expire(redis)
    assert retention.sweep() == 1
    assert storage.list("search/") == []
    assert names(redis) == {"slim:search:bytes"}


def test_a_job_that_was_deleted_by_hand_is_forgotten(client: TestClient, job: JobRecord, redis: Redis) -> None:
    assert client.delete(f"/jobs/{job.id}").status_code == 204
    assert not redis.exists(EXPIRIES)


def test_an_expiry_whose_job_is_gone_is_forgotten(
    job: JobRecord, redis: Redis, retention: Retention, records: Records
) -> None:
    expire(redis)
    records.delete(job.tenant, job.id)
    assert retention.sweep() == 0
    assert not redis.exists(EXPIRIES)


def test_an_unfinished_job_is_not_deleted(
    client: TestClient, body: dict[str, Any], records: Records, retention: Retention
) -> None:
    record = records.get(DEFAULT_TENANT, client.post("/jobs", json=body).json()["id"])
    with pytest.raises(Conflict):
        retention.delete_job(record)


def damage(redis: Redis, job: JobRecord) -> None:
    redis.hset(job_key(job.tenant, job.id), "request", '{"model": "of another version"}')


def test_a_record_that_cannot_be_read_is_put_off_and_the_next_is_deleted(
    client: TestClient, job: JobRecord, redis: Redis, records: Records, storage: Storage, retention: Retention
) -> None:
    other = new_record(job.request, tenant="other")
    finish(records.create(other), records, storage)
    damage(redis, job)
    expire(redis)
    redis.zadd(EXPIRIES, {"nonsense": 0})
    assert retention.sweep() == 1
    assert client.get(f"/jobs/{other.id}").status_code == 404
    assert storage.list(job_prefix(job.tenant, job.id))
    assert retention.sweep() == 0
    assert redis.zscore(EXPIRIES, f"job/{job.tenant}/{job.id}") > 0  # type: ignore[operator]


def test_a_record_that_cannot_be_read_is_left_out_of_the_list(
    client: TestClient, body: dict[str, Any], job: JobRecord, redis: Redis
) -> None:
    others = [client.post("/jobs", json=body).json()["id"] for _ in range(2)]
    damage(redis, job)
    page = client.get("/jobs", params={"limit": 2}).json()
    assert [found["id"] for found in page["data"]] == others[::-1]
    page = client.get("/jobs", params={"limit": 2, "cursor": others[1]}).json()
    assert [found["id"] for found in page["data"]] == [others[0]]


def test_the_sweeper_stops_when_told(retention: Retention) -> None:
    stop = threading.Event()
    loop = threading.Thread(target=retention.run, args=(stop,))
    loop.start()
    stop.set()
    loop.join(10)
    assert not loop.is_alive()
