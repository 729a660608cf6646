"""Errors of the API: each is a problem document with a stable code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.contract.answers.catalog import Problem
from service.infrastructure.worker_registry import register_worker
from service.models.families.family import DERIVED_SIZE
from service.settings import Settings
from tests.support.job_requests import model_directory
from tests.support.waiting import wait_until

JSON = {"Content-Type": "application/json"}


def problem(answer: Any, status: int, code: str) -> Problem:
    """The problem document of a response. Fails unless it has this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = Problem.model_validate_json(answer.content)
    assert (found.status, found.code, found.type) == (status, code, f"urn:taskslim:problem:{code}")
    return found


def test_unknown_field_is_refused_with_its_path(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body | {"target": {"ratio": 0.3, "percent": 30}})
    found = problem(answer, 422, "invalid_request")
    assert [entry.param for entry in found.errors or ()] == ["target.percent"]


@pytest.mark.parametrize("path", ["/jobs", "/plans"])
@pytest.mark.parametrize("host", ["xn--", "xn--a", "xn--a.example", "xn--a.xn--zz"])
def test_webhook_host_with_invalid_punycode_is_refused(
    client: TestClient, body: dict[str, Any], path: str, host: str
) -> None:
    answer = client.post(path, json=body | {"webhook": {"url": f"https://{host}/hook"}})
    assert [entry.param for entry in problem(answer, 422, "unsafe_url").errors or ()] == ["webhook.url"]
    assert client.get("/jobs").json()["data"] == []


@pytest.mark.parametrize("host", ["xn--bcher-kva.example", "a.xn--"])  # the second fails later, when it is resolved
def test_webhook_host_in_punycode_is_accepted_unchanged(client: TestClient, body: dict[str, Any], host: str) -> None:
    answer = client.post("/jobs", json=body | {"webhook": {"url": f"https://{host}/hook"}})
    assert answer.json()["request"]["webhook"]["url"] == f"https://{host}/hook"
    assert answer.status_code == 202


def test_problem_names_every_invalid_field(client: TestClient) -> None:
    wrong = {"task": {"calibration": {}}, "method": {"repair": "glue"}, "target": {"ratio": 2}, "tags": {"k": 7}}
    found = problem(client.post("/jobs", json=wrong), 422, "invalid_request")
    named = {entry.param for entry in found.errors or ()}
    assert named == {"model", "task.calibration", "method.repair", "target.ratio", "tags.k"}


@pytest.mark.parametrize("ratio", [0, -0.1, 0.96, 1, "NaN", "a third", None, 1e999])
def test_ratio_outside_its_bounds_is_refused(client: TestClient, body: dict[str, Any], ratio: object) -> None:
    content = str(body | {"target": {"ratio": ratio}}).replace("'", '"').replace("None", "null")
    problem(client.post("/jobs", content=content, headers=JSON), 422, "invalid_request")


def test_model_error_has_its_own_code(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/jobs", json=body | {"model": {"uri": "file:///nothing"}})
    found = problem(answer, 422, "invalid_model")
    assert [entry.param for entry in found.errors or ()] == ["model.uri"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_heads_of_a_family_with_a_derived_head_size_are_refused_with_the_reason(
    client: TestClient, body: dict[str, Any], tmp_path: Path, family: str
) -> None:
    model = {"uri": model_directory(tmp_path / family, model_type=family)}
    answer = client.post("/jobs", json=body | {"model": model, "method": {"units": ["heads"]}})
    found = problem(answer, 422, "unsupported_unit")
    assert found.detail == f"{family}: {DERIVED_SIZE}"
    assert [entry.param for entry in found.errors or ()] == ["method.units"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "required"),
        (b"x", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"\\ud800": 1}', "UTF-8"),
        (b'{"target": NaN}', "NaN"),
        (b"[" * 200_000, "too deep"),
        (b'{"a":' * 200_000, "too deep"),
        (b"1" * 5000, "too long"),
    ],
)
def test_body_that_is_not_json_is_refused(client: TestClient, content: bytes, says: str) -> None:
    assert says in problem(client.post("/jobs", content=content, headers=JSON), 422, "invalid_request").detail


def test_row_with_infinity_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    rows = '{"rows": [{"text": 1e999, "label": "positive"}]}'
    content = '{"model": {"uri": "hf://a/b"}, "target": {"ratio": 0.3}, "task": {"preset": "sst2", "calibration": %s}}'
    problem(client.post("/jobs", content=content % rows, headers=JSON), 422, "invalid_data")


def test_body_over_the_limit_is_refused(client: TestClient, settings: Settings) -> None:
    size = settings.max_body_bytes + 1
    problem(client.post("/jobs", content=b" " * size, headers=JSON), 413, "body_too_large")
    problem(client.post("/jobs", content=pieces(size), headers=JSON), 413, "body_too_large")
    problem(client.get("/jobs", headers={"Content-Length": "x"}), 413, "body_too_large")


def pieces(size: int) -> Iterator[bytes]:
    """A body that is sent without a Content-Length."""
    for _ in range(0, size, 2**20):
        yield b" " * 2**20


def test_router_errors_are_problem_documents(client: TestClient) -> None:
    problem(client.get("/nothing"), 404, "not_found")
    answer = client.put("/jobs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"


def test_bug_reveals_only_the_request_id(settings: Settings) -> None:
    app = create_app(settings)

    def broken() -> None:
        raise ZeroDivisionError("a secret")

    app.add_api_route("/broken", broken)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken", headers={"X-Request-ID": "mine-1"})
    assert "mine-1" in problem(answer, 500, "internal_error").detail
    assert "secret" not in answer.text


def test_response_has_a_request_id_and_security_headers(client: TestClient) -> None:
    first, second = client.get("/version"), client.get("/nothing")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    for answer in (first, second):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    forged = client.get("/version", headers={"X-Request-ID": "a b;c"})
    assert forged.headers["x-request-id"] != "a b;c"


@pytest.mark.slow
def test_request_without_redis_is_queue_unavailable(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/nothing"})
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        answer = client.get("/jobs")
        problem(answer, 503, "queue_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["redis"]["ok"]) == (503, False)
        assert ready.json()["checks"]["storage"] == {"ok": True, "reason": None}


def test_service_without_storage_is_not_ready(settings: Settings, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with TestClient(create_app(settings.model_copy(update={"storage_url": "s3://tests"}))) as client:
        ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "object store" in ready.json()["checks"]["storage"]["reason"]


def test_readiness_warns_where_no_worker_is_live(client: TestClient, redis: Redis) -> None:
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ok"]) == (200, True)
    assert "no live worker" in ready.json()["warnings"][0]
    register_worker(redis, "one")
    wait_until(lambda: client.get("/readyz").json()["warnings"] == [])


def test_capabilities_list_the_values_of_a_request(client: TestClient, settings: Settings) -> None:
    found = client.get("/capabilities").json()
    assert {"llama", "t5", "bert"} <= {family["model_type"] for family in found["families"]}
    assert {"sst2", "mnli"} <= {preset["name"] for preset in found["presets"]}
    assert "attribution" in found["criteria"]
    assert found["limits"]["max_body_bytes"] == settings.max_body_bytes
