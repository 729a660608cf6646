"""Retention: expired items are deleted with all that belongs to them, and no others."""

from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from redis import ConnectionError as RedisConnectionError
from redis import Redis

from service.contract.errors import Conflict
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.infrastructure.redis_keys import EXPIRIES, job_key
from service.jobs.record import JobRecord, new_record
from service.jobs.retention import Retention
from service.jobs.store import JobStore
from service.jobs.submission import Submission
from service.settings import Settings
from service.storage.datasets import Uploads
from service.storage.keys import job_prefix
from service.storage.object_store import Storage
from service.storage.row_formats import Content
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ANONYMOUS
from service.tenants.storage_quota import StoredBytes
from tests.support.finished_jobs import finish

# What stays when every job and data set is gone: not about any of them.
LASTING = {"slim:counters", "slim:default:bytes", "slim:reconciler"}


@pytest.fixture
def retention(redis: Redis, job_store: JobStore, storage: Storage) -> Retention:
    stored = StoredBytes(redis)
    uploads, scores = Uploads(redis, storage, stored), ScoreSets(redis, storage)
    return Retention(redis, job_store, uploads, scores, storage, stored)


@pytest.fixture
def job(client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage) -> JobRecord:
    """A job that has succeeded, with inline rows, a webhook and files."""
    webhook = {"url": "https://hooks.example/"}
    record = job_store.get(DEFAULT_TENANT, client.post("/jobs", json=body | {"webhook": webhook}).json()["id"])
    finish(record, job_store, storage)
    return job_store.get(DEFAULT_TENANT, record.id)


def expire(redis: Redis) -> None:
    """Make every item expired."""
    for member in cast(list[str], redis.zrange(EXPIRIES, 0, -1)):
        redis.zadd(EXPIRIES, {member: 0})


def names(redis: Redis) -> set[str]:
    """The keys of jobs and data sets; those of RQ expire by themselves."""
    kept = {name for name in cast("list[str]", list(redis.scan_iter("slim:*"))) if name not in LASTING}
    return {name for name in kept if not name.startswith("slim:webhooks")}


def test_expired_job_is_deleted_with_files_rows_events_and_keys(
    client: TestClient, job: JobRecord, redis: Redis, storage: Storage, retention: Retention
) -> None:
    assert storage.list("default/")
    assert retention.sweep() == 0
    expire(redis)
    assert retention.sweep() == 1
    assert client.get(f"/jobs/{job.id}").status_code == 404
    assert storage.list("default/") == []
    assert names(redis) == set()


def test_expired_data_set_is_deleted(redis: Redis, storage: Storage, retention: Retention, tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b'{"text": "a"}\n')
    retention.uploads.add(lines, Content(1, ["text"], 14, ""), "search", name=None, days=1)
    expire(redis)
    assert retention.sweep() == 1
    assert storage.list("search/") == []
    assert names(redis) == {"slim:search:bytes"}


def test_expiry_of_a_job_deleted_on_request_is_removed(client: TestClient, job: JobRecord, redis: Redis) -> None:
    assert client.delete(f"/jobs/{job.id}").status_code == 204
    assert not redis.exists(EXPIRIES)


def test_expiry_of_a_missing_job_is_removed(
    job: JobRecord, redis: Redis, retention: Retention, job_store: JobStore
) -> None:
    expire(redis)
    job_store.remove(job.tenant, job.id)
    assert retention.sweep() == 0
    assert not redis.exists(EXPIRIES)


def test_unfinished_job_is_not_deleted(
    client: TestClient, body: dict[str, Any], job_store: JobStore, retention: Retention
) -> None:
    record = job_store.get(DEFAULT_TENANT, client.post("/jobs", json=body).json()["id"])
    with pytest.raises(Conflict):
        retention.delete_job(record)


class LosesAnswers(JobStore):
    """A store whose connection breaks before the reply; `done` says whether Redis created the job."""

    done = True

    def accept(self, record: JobRecord, *, max_queued: int | None = None, max_running: int | None = None) -> JobRecord:
        if self.done:
            super().accept(record, max_queued=max_queued, max_running=max_running)
        raise RedisConnectionError("the answer was lost")


@pytest.mark.parametrize("done", [True, False])
def test_inline_rows_expire_only_without_a_job(
    settings: Settings,
    redis: Redis,
    body: dict[str, Any],
    storage: Storage,
    job_store: JobStore,
    retention: Retention,
    done: bool,
) -> None:
    losing = LosesAnswers(redis)
    losing.done = done
    submission = Submission(losing, storage, retention.stored, settings)
    with pytest.raises(RedisConnectionError):
        submission.submit(JobRequest.model_validate(body), ANONYMOUS, "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX")
    rows = storage.list("default/datasets/")
    assert rows
    assert retention.sweep() == 0
    expire(redis)
    assert retention.sweep() == (0 if done else 1)
    assert storage.list("default/datasets/") == (rows if done else [])
    assert retention.stored.used(DEFAULT_TENANT) == sum(size for _, size in storage.list(""))
    assert not redis.exists(EXPIRIES)


def test_files_of_an_interrupted_upload_expire(
    redis: Redis, storage: Storage, retention: Retention, tmp_path: Path
) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b'{"text": "a"}\n')
    dataset = retention.uploads.add(lines, Content(1, ["text"], 14, ""), "search", name=None, days=1)
    redis.delete(f"slim:search:dataset:{dataset.id}")
    expire(redis)
    retention.sweep()
    assert (storage.list("search/"), retention.stored.used("search")) == ([], 0)


def damage(redis: Redis, job: JobRecord) -> None:
    redis.hset(job_key(job.tenant, job.id), "request", '{"model": "of another version"}')


def test_unreadable_record_does_not_stop_the_next_deletion(
    client: TestClient, job: JobRecord, redis: Redis, job_store: JobStore, storage: Storage, retention: Retention
) -> None:
    other = new_record(job.request, tenant="other")
    finish(job_store.accept(other), job_store, storage)
    damage(redis, job)
    expire(redis)
    redis.zadd(EXPIRIES, {"nonsense": 0})
    assert retention.sweep() == 1
    assert client.get(f"/jobs/{other.id}").status_code == 404
    assert storage.list(job_prefix(job.tenant, job.id))
    assert retention.sweep() == 0
    assert cast(float, redis.zscore(EXPIRIES, f"job/{job.tenant}/{job.id}")) > 0


def test_unreadable_record_is_left_out_of_the_list(
    client: TestClient, body: dict[str, Any], job: JobRecord, redis: Redis
) -> None:
    others = [client.post("/jobs", json=body).json()["id"] for _ in range(2)]
    damage(redis, job)
    page = client.get("/jobs", params={"limit": 2}).json()
    assert [found["id"] for found in page["data"]] == others[::-1]
    page = client.get("/jobs", params={"limit": 2, "cursor": others[1]}).json()
    assert [found["id"] for found in page["data"]] == [others[0]]
