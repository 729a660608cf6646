"""The route that compares jobs, and what it refuses."""

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.routes.comparison import MAX_JOBS
from service.contract.ids import DEFAULT_TENANT, new_id
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.storage.keys import attempt_prefix
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys, KeyScope
from tests.support.compared_jobs import DIGESTS, compared_job
from tests.support.contract_examples import REQUEST
from tests.support.finished_jobs import fail


def test_jobs_are_compared_in_the_order_of_the_request(
    client: TestClient, job_store: JobStore, storage: Storage
) -> None:
    ids = [compared_job(job_store, storage, 7, 0.45), compared_job(job_store, storage, 5, 0.4)]
    found = client.get("/compare", params={"jobs": ",".join([ids[1], ids[0], ids[1]])}).json()
    assert [model["job_id"] for model in found["models"]] == [ids[1], ids[0]]
    assert found["models"][0]["metric"] == pytest.approx({"value": 0.4, "low": 0.3, "high": 0.5})
    assert found["models"][0]["tags"] == REQUEST.tags
    assert (found["dense"]["parameters"], found["metric"]) == (10, "accuracy")


def test_unknown_job_and_job_of_another_tenant_are_not_found(
    client: TestClient, job_store: JobStore, storage: Storage, redis: Redis
) -> None:
    mine, theirs = (compared_job(job_store, storage, 7, 0.45, tenant=tenant) for tenant in ("search", "ads"))
    headers = {"Authorization": f"Bearer {ApiKeys(redis).create('search', scopes=[KeyScope.jobs_read])[1]}"}
    assert client.get("/compare", params={"jobs": mine}, headers=headers).status_code == 200
    for other in (theirs, new_id()):
        answer = client.get("/compare", params={"jobs": f"{mine},{other}"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert other in answer.json()["detail"]
    unread = {"Authorization": f"Bearer {ApiKeys(redis).create('search', scopes=[KeyScope.jobs_write])[1]}"}
    assert client.get("/compare", params={"jobs": mine}, headers=unread).json()["code"] == "forbidden"


def test_job_without_a_result_is_a_conflict(client: TestClient, job_store: JobStore, storage: Storage) -> None:
    done, queued = compared_job(job_store, storage, 7, 0.45), job_store.accept(new_record(REQUEST))
    failed = job_store.accept(new_record(REQUEST))
    fail(failed, job_store, "invalid_data", "line 3 has no 'text'")
    for job, status in ((queued, "queued"), (failed, "failed")):
        answer = client.get("/compare", params={"jobs": f"{done},{job.id}"})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert f"job {job.id} is {status}" in answer.json()["detail"]


def test_jobs_of_different_models_are_refused(client: TestClient, job_store: JobStore, storage: Storage) -> None:
    ids = [
        compared_job(job_store, storage, 7, 0.45),
        compared_job(job_store, storage, 5, 0.4, digests=DIGESTS | {"model": "d" * 64}),
    ]
    answer = client.get("/compare", params={"jobs": ",".join(ids)})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_comparable")
    assert answer.json()["errors"][0]["param"] == "jobs"


def test_too_many_jobs_and_wrong_ids_are_refused(client: TestClient) -> None:
    many = ",".join(new_id() for _ in range(MAX_JOBS + 1))
    answer = client.get("/compare", params={"jobs": many})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert f"at most {MAX_JOBS}" in answer.json()["detail"]
    for wrong in ("", "nothing", f"{new_id()},", f"{new_id()};{new_id()}"):
        assert client.get("/compare", params={"jobs": wrong}).status_code == 422
    assert client.get("/compare").status_code == 422


def test_report_of_another_version_is_refused(client: TestClient, job_store: JobStore, storage: Storage) -> None:
    job_id = compared_job(job_store, storage, 7, 0.45)
    storage.put_bytes(b'{"job_id": "of another version"}', attempt_prefix(DEFAULT_TENANT, job_id, 1) + "report.json")
    answer = client.get("/compare", params={"jobs": job_id})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_comparable")
