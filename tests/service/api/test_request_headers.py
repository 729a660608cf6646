"""`Idempotency-Key`, `Prefer: wait`, ETags and the filters by time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.request_headers import wait_seconds
from service.contract.answers.job import Job
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.finished_jobs import finish
from tests.support.waiting import wait_until

KEY = {"Idempotency-Key": '"8e03978e-40d5"'}


def jobs_of(client: TestClient) -> list[Any]:
    jobs: list[Any] = client.get("/jobs").json()["data"]
    return jobs


def test_repeated_idempotency_key_returns_the_first_response_and_creates_no_job(
    client: TestClient, body: dict[str, Any], redis: Redis
) -> None:
    first = client.post("/jobs", json=body, headers=KEY)
    again = client.post("/jobs", json=body, headers=KEY)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(jobs_of(client)) == 1
    assert redis.llen("rq:queue:slim") == 1


def test_order_of_fields_does_not_change_the_request_fingerprint(client: TestClient, body: dict[str, Any]) -> None:
    client.post("/jobs", json=body, headers=KEY)
    again = client.post("/jobs", json=dict(reversed(body.items())), headers=KEY)
    assert again.headers["idempotent-replayed"] == "true"


def test_idempotency_key_with_another_request_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    client.post("/jobs", json=body, headers=KEY)
    other = client.post("/jobs", json=body | {"tags": {"team": "other"}}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(jobs_of(client)) == 1


def test_refused_request_releases_its_idempotency_key(client: TestClient, body: dict[str, Any]) -> None:
    refused = client.post("/jobs", json=body | {"model": {"uri": "file:///nothing"}}, headers=KEY)
    assert refused.status_code == 422
    assert client.post("/jobs", json=body, headers=KEY).status_code == 202


def test_concurrent_requests_with_one_key_create_one_job(client: TestClient, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/jobs", json=body, headers=KEY), range(16)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 409)
    assert len(jobs_of(client)) == 1


def test_invalid_idempotency_key_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body, headers={"Idempotency-Key": '"'})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [(None, 0), ("wait=5", 5), ('respond-async, wait="7"', 7), ("wait=9999", 30), ("wait=-1", 0), ("await=5", 0)],
)
def test_prefer_wait_is_parsed_as_in_rfc_7240(prefer: str | None, seconds: int) -> None:
    assert wait_seconds(prefer) == seconds


def test_prefer_wait_returns_the_ended_job(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    def finish_the_job() -> None:
        wait_until(lambda: job_store.page(DEFAULT_TENANT).records)
        finish(job_store.page(DEFAULT_TENANT).records[0], job_store, storage)

    worker = threading.Thread(target=finish_the_job)
    worker.start()
    answer = client.post("/jobs", json=body, headers={"Prefer": "wait=30"})
    worker.join()
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=30"


def test_prefer_wait_that_is_too_short_returns_the_current_job(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    looked = client.get(answer.headers["location"], headers={"Prefer": "wait=1"})
    assert (looked.status_code, looked.headers["preference-applied"]) == (200, "wait=1")


def test_etag_changes_only_with_the_job(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = Job.model_validate_json(client.post("/jobs", json=body).content)
    etag = client.get(job.links.self).headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        unchanged = client.get(job.links.self, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage)
    changed = client.get(job.links.self, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_jobs_are_filtered_by_creation_time(client: TestClient, body: dict[str, Any]) -> None:
    ids = []
    for _ in range(3):
        ids.append(client.post("/jobs", json=body).json()["id"])
        last = datetime.now().astimezone()
        wait_until(lambda last=last: datetime.now().astimezone() > last + timedelta(milliseconds=2))  # type: ignore[misc]
    middle = client.get(f"/jobs/{ids[1]}").json()["created_at"]

    def found(**times: str) -> list[str]:
        answer = client.get("/jobs", params=times)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    after = (datetime.fromisoformat(middle) + timedelta(milliseconds=1)).isoformat()
    assert found(created_since=after) == [ids[2]]
    assert found(created_before=after) == [ids[1], ids[0]]
    assert found(created_since="2000-01-01T00:00:00Z", created_before="2001-01-01T00:00:00Z") == []
    assert client.get("/jobs", params={"created_since": "2000-01-01T00:00:00"}).status_code == 422
