"""The routes of score sets, and their expiry."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.infrastructure.redis_keys import EXPIRIES, expiry_member
from service.jobs.retention import Retention
from service.jobs.store import JobStore
from service.storage.datasets import Uploads
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ApiKeys, KeyScope
from service.tenants.storage_quota import StoredBytes
from tests.support.score_sets import digest_of, measured, safetensors

FILE = safetensors()
DIGEST = digest_of("scores")

Add = Callable[..., str]


@pytest.fixture
def add(redis: Redis, storage: Storage) -> Add:
    """A function that stores a score set for a tenant and returns it."""
    scores = ScoreSets(redis, storage)

    def store(name: str = "scores", tenant: str = "default", age: float = 0) -> str:
        made = measured(FILE, digest_of(name), created_at=datetime.now(UTC) - timedelta(seconds=age))
        scores.add(tenant, made, FILE, days=1)
        return made.digest

    return store


def test_scores_are_listed_read_and_downloaded(client: TestClient, add: Add) -> None:
    digests = [add(str(age), age=age) for age in range(3)]
    page = client.get("/scores", params={"limit": 2}).json()
    assert [entry["digest"] for entry in page["data"]] == digests[:2]
    rest = client.get("/scores", params={"cursor": page["next_cursor"]}).json()
    assert ([entry["digest"] for entry in rest["data"]], rest["has_more"]) == (digests[2:], False)
    shown = client.get(f"/scores/{digests[0]}").json()
    assert shown == page["data"][0]
    answer = client.get(shown["url"])
    assert answer.content == FILE
    assert answer.headers["etag"] == f'"{shown["sha256"]}"'
    assert client.get(shown["url"], headers={"Range": "bytes=8-15"}).content == FILE[8:16]


def test_deleted_scores_are_not_found(client: TestClient, add: Add, storage: Storage) -> None:
    digest = add()
    assert client.delete(f"/scores/{digest}").status_code == 204
    assert client.delete(f"/scores/{digest}").status_code == 404
    assert client.get("/scores").json()["data"] == []
    assert storage.list("default/") == []


@pytest.mark.parametrize("path", ["", "/safetensors"])
def test_unknown_digest_is_not_found_and_invalid_digest_is_refused(client: TestClient, path: str) -> None:
    assert client.get(f"/scores/{DIGEST}{path}").json()["code"] == "not_found"
    assert client.get(f"/scores/..%2fjobs{path}").status_code in (404, 422)


def test_score_set_of_another_tenant_is_not_found(client: TestClient, add: Add, redis: Redis) -> None:
    mine, theirs = add("mine", "search"), add("theirs", "ads")
    _, key = ApiKeys(redis).create("search")
    headers = {"Authorization": f"Bearer {key}"}
    assert [entry["digest"] for entry in client.get("/scores", headers=headers).json()["data"]] == [mine]
    for method, path in (("GET", ""), ("GET", "/safetensors"), ("DELETE", "")):
        assert client.request(method, f"/scores/{theirs}{path}", headers=headers).status_code == 404
    assert client.get(f"/scores/{mine}/safetensors", headers=headers).content == FILE


def test_key_without_the_write_scope_deletes_no_scores(client: TestClient, add: Add, redis: Redis) -> None:
    digest = add()
    _, key = ApiKeys(redis).create(scopes=[KeyScope.jobs_read])
    headers = {"Authorization": f"Bearer {key}"}
    assert client.get(f"/scores/{digest}", headers=headers).status_code == 200
    assert client.get(f"/scores/{digest}/safetensors", headers=headers).json()["code"] == "forbidden"
    assert client.delete(f"/scores/{digest}", headers=headers).json()["code"] == "forbidden"


def test_expired_scores_are_deleted(add: Add, redis: Redis, storage: Storage, job_store: JobStore) -> None:
    digest, stored = add(), StoredBytes(redis)
    uploads, scores = Uploads(redis, storage, stored), ScoreSets(redis, storage)
    retention = Retention(redis, job_store, uploads, scores, storage, stored)
    assert retention.sweep() == 0
    redis.zadd(EXPIRIES, {expiry_member("scores", "default", digest): 0})
    assert retention.sweep() == 1
    assert storage.list("default/") == []
    assert not redis.exists(EXPIRIES)
    assert stored.used("default") == 0
