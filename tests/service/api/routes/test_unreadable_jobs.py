"""The routes of a job whose record cannot be read."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis
from rq.executions import Execution

from service.contract.answers.job import JobStatus
from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.redis_client import connect
from service.infrastructure.redis_keys import OPEN, index_key, job_key
from service.jobs.rq_jobs import RqJob, rq_job_id
from service.jobs.store import JobStore
from service.jobs.tenant_slots import TenantSlots
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.finished_jobs import finish

DAMAGES = {"request": "{", "attempt": "first", "status": "paused", "progress": "half", "created_at": "yesterday"}
WAYS = [
    ("GET", ""),
    ("GET", "/events"),
    ("GET", "/artifacts"),
    ("GET", "/artifacts/model/config.json"),
    ("GET", "/report"),
    ("GET", "/deliveries"),
    ("POST", "/cancel"),
]


def submit(client: TestClient, body: dict[str, Any]) -> str:
    return str(client.post("/jobs", json=body).json()["id"])


def damage(redis: Redis, job_id: str, field: str) -> None:
    redis.hset(job_key(DEFAULT_TENANT, job_id), field, DAMAGES[field])


@pytest.mark.parametrize(("method", "way"), WAYS)
def test_routes_of_an_unreadable_job_return_the_same_problem(
    client: TestClient, body: dict[str, Any], redis: Redis, method: str, way: str
) -> None:
    job_id = submit(client, body)
    damage(redis, job_id, "request")
    answer = client.request(method, f"/jobs/{job_id}{way}")
    assert (answer.status_code, answer.json()["code"]) == (409, "unreadable_record")
    assert job_id in answer.json()["detail"]


@pytest.mark.parametrize("field", DAMAGES)
@pytest.mark.parametrize("prefer", ["", "wait=1"])
def test_damaged_record_is_a_conflict(
    client: TestClient, body: dict[str, Any], redis: Redis, field: str, prefer: str
) -> None:
    job_id = submit(client, body)
    damage(redis, job_id, field)
    answer = client.get(f"/jobs/{job_id}", headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["code"]) == (409, "unreadable_record")


def test_record_without_a_status_is_a_conflict(client: TestClient, body: dict[str, Any], redis: Redis) -> None:
    job_id = submit(client, body)
    redis.hdel(job_key(DEFAULT_TENANT, job_id), "status", "tenant", "id")
    assert client.get(f"/jobs/{job_id}").json()["code"] == "unreadable_record"
    assert client.delete(f"/jobs/{job_id}").status_code == 204


@pytest.mark.parametrize("field", DAMAGES)
def test_unreadable_job_is_deleted_with_everything_that_belongs_to_it(
    client: TestClient, body: dict[str, Any], redis: Redis, job_store: JobStore, storage: Storage, field: str
) -> None:
    kept = submit(client, body)
    job_id = submit(client, body)
    finish(job_store.get(DEFAULT_TENANT, job_id), job_store, storage)
    damage(redis, job_id, field)
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert client.get(f"/jobs/{job_id}").status_code == 404
    assert not any(job_id in key for key, _ in storage.list(""))
    assert not any(job_id in str(key) for key in redis.scan_iter("slim:*"))
    assert [job["id"] for job in client.get("/jobs").json()["data"]] == [kept]
    assert redis.hget("slim:counters", f"slim_jobs|{JobStatus.succeeded}") == "0"


def test_deleted_unreadable_job_releases_its_slot(
    client: TestClient, body: dict[str, Any], redis: Redis, settings: Settings
) -> None:
    job_id = submit(client, body)
    damage(redis, job_id, "request")
    assert TenantSlots(redis, 1).has(DEFAULT_TENANT, job_id)
    assert client.delete(f"/jobs/{job_id}").status_code == 204
    assert not TenantSlots(redis, 1).has(DEFAULT_TENANT, job_id)
    assert redis.zscore(OPEN, f"{DEFAULT_TENANT}/{job_id}") is None
    assert redis.zcard(index_key(DEFAULT_TENANT, JobStatus.queued)) == 0


def test_unreadable_job_of_a_live_worker_is_not_deleted(
    client: TestClient, body: dict[str, Any], redis: Redis, settings: Settings
) -> None:
    job_id = submit(client, body)
    damage(redis, job_id, "request")
    with connect(settings.redis_url, decode=False) as transport:
        rq_job = RqJob.fetch(rq_job_id(job_id, 1), connection=transport, serializer="json")
        with transport.pipeline() as pipe:
            execution = Execution.create(rq_job, ttl=60, pipeline=pipe)
            pipe.execute()
        answer = client.delete(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "worker" in answer.json()["detail"]
        with transport.pipeline() as pipe:
            execution.delete(rq_job, pipe)
            pipe.execute()
    assert client.delete(f"/jobs/{job_id}").status_code == 204
