"""Isolation of tenants: resources, scopes, quotas, rate limits and signed links."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from fastapi.testclient import TestClient
from redis import Redis
from structlog.contextvars import merge_contextvars

from service.api.app import create_app
from service.api.openapi.examples import INLINE
from service.contract.answers.job import Job
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys, KeyScope
from service.tenants.storage_quota import StoredBytes
from tests.support.finished_jobs import FILES, finish

Login = Callable[..., TestClient]


@pytest.fixture
def strict(settings: Settings, tmp_path: Any) -> Settings:
    """The settings of a public deployment with low limits."""
    limits = {"max_requests": 40, "max_queued_jobs": 2, "max_stored_bytes": 10_000, "local_roots": (tmp_path,)}
    return settings.model_copy(update=limits)


@pytest.fixture
def login(strict: Settings, redis: Redis) -> Any:
    """Clients of one API process, by tenant."""
    with TestClient(create_app(strict), raise_server_exceptions=False) as shared:

        def client_of(tenant: str, *scopes: KeyScope) -> TestClient:
            text = ApiKeys(redis).create(tenant, scopes or (KeyScope.admin,))[1]
            client = TestClient(shared.app, raise_server_exceptions=False)
            client.app_state.update(shared.app_state)
            client.headers["Authorization"] = f"Bearer {text}"
            return client

        yield client_of


def submit(client: TestClient, body: dict[str, Any]) -> Job:
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return Job.model_validate_json(answer.content)


def test_log_line_of_a_request_has_tenant_job_and_request_id(login: Login, body: dict[str, Any]) -> None:
    client = login("search")
    with structlog.testing.capture_logs([merge_contextvars]) as lines:
        job = Job.model_validate_json(client.post("/jobs", json=body, headers={"X-Request-ID": "r-1"}).content)
        client.post(f"/jobs/{job.id}/cancel", headers={"X-Request-ID": "r-2"})
    accepted, submitted, cancelled = lines
    assert {"job_id": job.id, "tenant": "search", "attempt": 0, "request_id": "r-1"}.items() <= accepted.items()
    assert {"event": "request", "tenant": "search", "request_id": "r-1"}.items() <= submitted.items()
    assert {"job_id": job.id, "tenant": "search", "request_id": "r-2"}.items() <= cancelled.items()


def test_resources_of_another_tenant_are_not_found(
    login: Login, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    owner, stranger = login("search"), login("ads")
    job = submit(owner, body)
    finish(job_store.get("search", job.id), job_store, storage)
    dataset = owner.post("/datasets", content=b'{"text": "a"}\n', headers={"Content-Type": "application/jsonl"}).json()
    path = f"/jobs/{job.id}"
    for method, url in (
        ("GET", path),
        ("DELETE", path),
        ("POST", f"{path}/cancel"),
        ("GET", f"{path}/events"),
        ("GET", f"{path}/artifacts"),
        ("GET", f"{path}/artifacts/model/config.json"),
        ("GET", f"{path}/report"),
        ("GET", f"{path}/deliveries"),
        ("GET", f"/datasets/{dataset['id']}"),
        ("DELETE", f"/datasets/{dataset['id']}"),
    ):
        answer = stranger.request(method, url)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), url
    assert stranger.get("/jobs").json()["data"] == []
    assert stranger.get("/datasets").json()["data"] == []
    assert owner.get(path).status_code == 200
    theirs = body | {"task": body["task"] | {"calibration": {"uri": dataset["uri"]}}}
    assert stranger.post("/jobs", json=theirs).json()["code"] == "invalid_data"


def test_tenants_may_use_the_same_idempotency_key(login: Login, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "one"}
    jobs = {login(tenant).post("/jobs", json=body, headers=key).json()["id"] for tenant in ("search", "ads")}
    assert len(jobs) == 2


def test_each_tenant_has_its_own_webhook_secret(login: Login) -> None:
    owner = login("search")
    first = owner.get("/webhooks/secret").json()["secret"]
    assert login("ads").get("/webhooks/secret").json()["secret"] != first
    assert owner.post("/webhooks/secret/rotate").json()["secret"] != first
    assert login("search", KeyScope.jobs_read).get("/webhooks/secret").status_code == 403


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        (KeyScope.jobs_read, "GET", "/jobs"),
        (KeyScope.jobs_write, "POST", "/jobs"),
        (KeyScope.datasets_write, "POST", "/datasets"),
        (KeyScope.admin, "GET", "/metrics"),
    ],
)
def test_route_needs_exactly_its_scope(login: Login, scope: KeyScope, method: str, path: str) -> None:
    others = [other for other in KeyScope if other not in (scope, KeyScope.admin)]
    assert login("search", *others).request(method, path, json={}).status_code == 403
    assert login("search", scope).request(method, path, json={}).status_code not in (401, 403)


def test_responses_have_rate_limit_headers_until_the_limit_is_reached(login: Login) -> None:
    client, other = login("search"), login("ads")
    first = client.get("/jobs")
    assert first.headers["ratelimit-policy"] == '"requests";q=40;w=60'
    assert first.headers["ratelimit"].startswith('"requests";r=39;t=')
    assert client.get("/jobs/nothing").headers["ratelimit"].startswith('"requests";r=38;')
    answers = [client.get("/jobs") for _ in range(39)]
    assert [answer.status_code for answer in answers] == [200] * 38 + [429]
    assert answers[-1].json()["code"] == "too_many_requests"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert answers[-1].headers["ratelimit"].startswith('"requests";r=0;')
    assert other.get("/jobs").status_code == 200


def test_tenant_with_a_full_queue_is_refused(
    login: Login, body: dict[str, Any], storage: Storage, job_store: JobStore
) -> None:
    client = login("search")
    first = submit(client, body)
    submit(client, body)
    before = storage.list("")
    refused = client.post("/jobs", json=body, headers={"Idempotency-Key": "one"})
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0
    assert storage.list("") == before
    submit(login("ads"), body)
    job_store.cancel("search", first.id)
    assert client.post("/jobs", json=body, headers={"Idempotency-Key": "one"}).status_code == 202


def test_tenant_with_a_full_storage_quota_is_refused(login: Login, body: dict[str, Any], redis: Redis) -> None:
    StoredBytes(redis).record("search", "job/1", 10_000)
    client = login("search")
    rows = {"content": b'{"text": "a"}\n', "headers": {"Content-Type": "application/jsonl"}}
    for answer in (client.post("/jobs", json=body), client.post("/datasets", **rows)):  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (429, "limit_exceeded")
        assert int(answer.headers["retry-after"]) > 0
    submit(login("ads"), body)


def test_upload_over_the_storage_quota_is_refused_and_leaves_no_file(
    login: Login, redis: Redis, storage: Storage
) -> None:
    StoredBytes(redis).record("search", "job/1", 9_990)
    client, headers = login("search"), {"Content-Type": "application/jsonl"}
    refused = client.post("/datasets", content=b'{"text": "a"}\n', headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert (storage.list(""), StoredBytes(redis).used("search")) == ([], 9_990)
    StoredBytes(redis).record("search", "job/1", 9_986)
    assert client.post("/datasets", content=b'{"text": "a"}\n', headers=headers).status_code == 201
    assert StoredBytes(redis).used("search") == 10_000


def test_inline_rows_count_for_the_quota_until_their_job_is_deleted(
    login: Login, body: dict[str, Any], redis: Redis, storage: Storage
) -> None:
    client, stored = login("search"), StoredBytes(redis)
    job = submit(client, body)
    size = sum(size for _, size in storage.list("search/"))
    assert stored.used("search") == size > 0
    stored.record("search", "job/other", 10_000 - 2 * size + 1)
    before = storage.list("")
    refused = client.post("/jobs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
    assert storage.list("") == before
    client.post(f"/jobs/{job.id}/cancel")
    assert client.delete(f"/jobs/{job.id}").status_code == 204
    assert stored.used("search") == 10_000 - 2 * size + 1


def test_signed_link_needs_no_key_and_cannot_be_changed(
    login: Login, body: dict[str, Any], job_store: JobStore, storage: Storage
) -> None:
    owner = login("search")
    job = submit(owner, body)
    finish(job_store.get("search", job.id), job_store, storage)
    links = {artifact["name"]: artifact["url"] for artifact in owner.get(job.links.artifacts).json()["data"]}
    stranger = login("ads")
    del stranger.headers["Authorization"]
    for name, content in FILES.items():
        assert stranger.get(links[name]).content == content
    link = links["model/config.json"]
    assert stranger.get(link.split("?")[0]).status_code == 401
    for bent in (
        link.replace("model/config.json", "report.json"),
        link.replace("tenant=search", "tenant=ads"),
        link.replace("expires=", "expires=9"),
        link[:-1] + ("0" if link[-1] != "0" else "1"),
        link.split("signature=")[0] + "signature=%00",
    ):
        answer = stranger.get(bent)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), bent


def test_deployment_without_keys_has_no_limits(client: TestClient) -> None:
    assert "ratelimit" not in client.get("/jobs").headers
    assert client.get("/metrics").status_code == 200


def test_public_server_needs_a_key_after_redis_is_emptied(settings: Settings, redis: Redis) -> None:
    key = ApiKeys(redis).create("search")[1]
    with TestClient(create_app(settings.model_copy(update={"host": "0.0.0.0"}))) as client:
        assert client.get("/jobs", headers={"X-API-Key": key}).status_code == 200
        redis.flushall()
        for path in ("/jobs", "/metrics", "/webhooks/secret"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:8000"}, {"Origin": "https://evil.example"}, {"Origin": "null"}]
)
def test_request_from_another_origin_without_a_key_is_forbidden(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.post("/webhooks/secret/rotate", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_request_from_the_status_page_is_allowed(client: TestClient) -> None:
    assert client.get("/jobs", headers={"Origin": "http://testserver"}).status_code == 200


def test_operations_need_a_key_where_the_document_says_so(login: Login) -> None:
    shut_out = login("search")
    del shut_out.headers["Authorization"]
    for path, operations in shut_out.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            url = path.replace("{job_id}", 26 * "0").replace("{dataset_id}", 26 * "0").replace("{name}", "report.json")
            answer = shut_out.request(method, url, json=INLINE if method == "post" else None)
            assert (answer.status_code == 401) is bool(operation["security"]), (method, path)
