"""The routes of jobs."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.contract.answers.job import Job, JobStatus
from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.redis_keys import job_key
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.keys import attempt_prefix, dataset_key, job_prefix
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys, KeyScope
from tests.support.finished_jobs import FILES, finish


def submit(client: TestClient, body: dict[str, Any]) -> Job:
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return Job.model_validate_json(answer.content)


def test_submitted_job_is_queued_with_its_location(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body | {"tags": {"team": "search"}})
    job = Job.model_validate_json(answer.content)
    assert answer.status_code == 202
    assert int(answer.headers["Retry-After"]) > 0
    assert (job.status, job.attempt, job.tags) == (JobStatus.queued, 0, {"team": "search"})
    assert answer.headers["Location"] == job.links.self
    assert client.get(answer.headers["Location"]).json() == answer.json()


def test_inline_rows_are_stored_in_the_object_store_and_not_in_redis(
    client: TestClient, body: dict[str, Any], storage: Storage, redis: Redis
) -> None:
    rows = body["task"]["evaluation"]["rows"]
    observed = {"name": "other", "template": "{text}", "labels": body["task"]["labels"], "evaluation": {"rows": rows}}
    job = submit(client, body | {"observe": [observed]})
    other = job.request.observe[0].evaluation
    assert storage.exists(dataset_key(DEFAULT_TENANT, (other.uri or "").removeprefix("dataset://")))
    source = job.request.slimmed_for[0].calibration
    assert source.rows is None
    assert source.uri is not None
    stored = storage.get_bytes(dataset_key(DEFAULT_TENANT, source.uri.removeprefix("dataset://"))).decode()
    assert len(stored.splitlines()) == len(body["task"]["calibration"]["rows"])
    record = str(redis.hgetall(job_key(DEFAULT_TENANT, job.id)))
    assert source.uri in record
    assert "parcel" not in record
    assert client.delete(f"/jobs/{job.id}").status_code == 409
    assert client.post(f"/jobs/{job.id}/cancel").status_code == 200
    assert client.delete(f"/jobs/{job.id}").status_code == 204
    assert storage.list("") == []


def test_stored_inline_rows_can_be_used_by_another_job(client: TestClient, body: dict[str, Any]) -> None:
    source = submit(client, body).request.slimmed_for[0].calibration
    again = submit(client, body | {"task": body["task"] | {"calibration": {"uri": source.uri}, "evaluation": None}})
    assert again.request.slimmed_for[0].calibration.uri == source.uri


def test_refused_request_stores_nothing(client: TestClient, body: dict[str, Any], storage: Storage) -> None:
    assert client.post("/jobs", json=body | {"model": {"uri": "file:///nothing"}}).status_code == 422
    assert client.get("/jobs").json() == {"data": [], "next_cursor": None, "has_more": False}
    assert storage.list("") == []


def test_links_follow_the_public_url(settings: Settings, body: dict[str, Any]) -> None:
    public = settings.model_copy(update={"public_url": "https://slim.example/api/"})
    with TestClient(create_app(public)) as client:
        assert submit(client, body).links.self.startswith("https://slim.example/api/jobs/")


def test_pages_list_every_job_once_newest_first(client: TestClient, body: dict[str, Any]) -> None:
    submitted = [submit(client, body).id for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert seen == sorted(submitted, reverse=True)


def test_jobs_are_filtered_by_status_and_tag(client: TestClient, body: dict[str, Any]) -> None:
    first = submit(client, body | {"tags": {"team": "a:b"}})
    second = submit(client, body)
    client.post(f"/jobs/{second.id}/cancel")

    def ids(**params: str) -> list[str]:
        return [job["id"] for job in client.get("/jobs", params=params).json()["data"]]

    assert ids(tag="team:a:b") == [first.id]
    assert ids(tag="team:c") == []
    assert ids(status="cancelled") == [second.id]
    assert client.get("/jobs", params={"tag": "team"}).json()["errors"][0]["param"] == "tag"


def test_queued_job_is_cancelled_at_once_and_can_be_cancelled_again(client: TestClient, body: dict[str, Any]) -> None:
    job = submit(client, body)
    for _ in range(2):
        answer = client.post(f"/jobs/{job.id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_running_job_becomes_cancelling(client: TestClient, body: dict[str, Any], job_store: JobStore) -> None:
    job = submit(client, body)
    job_store.lease(DEFAULT_TENANT, job.id, 1, "the test")
    answer = client.post(f"/jobs/{job.id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert client.delete(f"/jobs/{job.id}").status_code == 409


def test_deletion_of_an_ended_job_removes_its_files_and_rows(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = submit(client, body)
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage)
    assert any(job.id in key for key, _ in storage.list(""))
    assert client.delete(f"/jobs/{job.id}").status_code == 204
    assert not any(job.id in key for key, _ in storage.list(""))
    assert client.get(f"/jobs/{job.id}").status_code == 404
    assert client.delete(f"/jobs/{job.id}").status_code == 404


def test_ended_job_has_no_retry_after(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = submit(client, body)
    assert "Retry-After" in client.get(f"/jobs/{job.id}").headers
    finish(job_store.get(DEFAULT_TENANT, job.id), job_store, storage)
    answer = client.get(f"/jobs/{job.id}")
    assert "Retry-After" not in answer.headers
    assert answer.json()["status"] == "succeeded"
    assert client.get(f"/jobs/{job.id}/report").content == FILES["report.json"]


@pytest.mark.parametrize("path", ["", "/events", "/artifacts", "/artifacts/model/config.json", "/report"])
@pytest.mark.parametrize("job_id", ["01KB3ZJ5T8Q6W2E4R9Y7N1M0PX", "x", "default:events", "%00", "..%2f..", "é"])
def test_unknown_job_is_not_found(client: TestClient, job_id: str, path: str) -> None:
    answer = client.get(f"/jobs/{job_id}{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_job_of_another_tenant_is_not_found(client: TestClient, body: dict[str, Any], redis: Redis) -> None:
    job = submit(client, body)
    _, key = ApiKeys(redis).create("other")
    headers = {"Authorization": f"Bearer {key}"}
    for path in ("", "/events", "/artifacts", "/report"):
        assert client.get(f"/jobs/{job.id}{path}", headers=headers).status_code == 404
    assert client.get("/jobs", headers=headers).json()["data"] == []
    assert client.post(f"/jobs/{job.id}/cancel", headers=headers).status_code == 404


def test_request_needs_a_key_with_the_scope_once_there_is_a_key(
    settings: Settings, body: dict[str, Any], redis: Redis
) -> None:
    _, reader = ApiKeys(redis).create(scopes=[KeyScope.jobs_read])
    with TestClient(create_app(settings)) as client:
        refused = client.get("/jobs")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/jobs", headers={"X-API-Key": reader}).status_code == 200
        answer = client.post("/jobs", json=body, headers={"X-API-Key": reader})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert client.get("/healthz").status_code == 200


def test_local_paths_need_allowed_roots_with_keys(settings: Settings, body: dict[str, Any], redis: Redis) -> None:
    _, key = ApiKeys(redis).create()
    with TestClient(create_app(settings), headers={"X-API-Key": key}) as client:
        answer = client.post("/jobs", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_path")
        assert answer.json()["errors"][0]["param"] == "model.uri"
    model = Path(body["model"]["uri"].removeprefix("file://"))
    rooted = settings.model_copy(update={"local_roots": (model.parent,)})
    with TestClient(create_app(rooted), headers={"X-API-Key": key}) as client:
        assert client.post("/jobs", json=body).status_code == 202
        outside = client.post("/jobs", json=body | {"model": {"uri": "file:///etc"}})
        assert (outside.status_code, outside.json()["code"]) == (403, "forbidden_path")


def test_target_that_rounds_a_width_to_zero_is_refused_at_submission(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body | {"target": {"ratio": 0.95}, "output": {"round_to": 64}})
    assert (answer.status_code, answer.json()["code"]) == (422, "target_unreachable")
    assert "round_to" in answer.json()["detail"]
    assert client.get("/jobs").json()["data"] == []


def test_cancelled_job_of_an_earlier_attempt_leaves_no_files(
    client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    job = client.post("/jobs", json=body).json()["id"]
    lease = job_store.lease("default", job, 1, "the test")
    storage.put_bytes(b"half", attempt_prefix("default", job, 1) + "model/model.safetensors")
    job_store.hand_back(lease)
    assert client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert storage.list(job_prefix("default", job)) == []
