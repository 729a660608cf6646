"""Where a model may be pushed to: what plan and job refuse alike."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.settings import Settings
from service.tenants.api_keys import ApiKeys


def codes(client: TestClient, body: dict[str, Any], uri: str, **output: Any) -> set[tuple[int, str | None]]:
    """(status, code) of a plan and a job that push to `uri`; the code is None for what is accepted."""
    asked = body | {"output": {"round_to": 8, "uri": uri} | output}
    answers = [client.post(path, json=asked) for path in ("/plans", "/jobs")]
    for answer in answers:
        if answer.is_error and answer.json().get("errors"):
            assert answer.json()["errors"][0]["param"].startswith("output")
    return {(200 if answer.is_success else answer.status_code, answer.json().get("code")) for answer in answers}


@pytest.mark.parametrize(
    "uri",
    [
        "file:///models/slim",
        "https://bucket.example/slim",
        "s3://bucket",
        "s3://bucket/../other",
        "s3://bucket/a/../b",
        "s3://bucket/slim?endpoint=http://169.254.169.254",
        "s3://user:secret@bucket/slim",
        "hf://owner",
        "hf://owner/name/extra",
        "job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    ],
)
def test_other_places_are_refused(client: TestClient, body: dict[str, Any], uri: str) -> None:
    assert codes(client, body, uri) == {(422, "invalid_request")}


def test_indices_alone_have_no_model_to_push(client: TestClient, body: dict[str, Any]) -> None:
    body = body | {"method": {"repair": "none"}}
    assert codes(client, body, "s3://bucket/slim", formats=["indices"]) == {(422, "invalid_request")}


def test_trusted_caller_may_name_any_place(client: TestClient, body: dict[str, Any]) -> None:
    for uri in ("s3://bucket/slim", "gs://bucket/a/b/", "az://container/slim", "hf://owner/name"):
        assert codes(client, body, uri) == {(200, None)}


@pytest.mark.parametrize(
    ("outputs", "uri", "allowed"),
    [
        ((), "s3://slim/reviews", False),
        (("s3://slim/",), "s3://slim/reviews", True),
        (("s3://slim/",), "s3://slim2/reviews", False),
        (("s3://slim/",), "hf://owner/name", False),
        (("hf://owner/",), "hf://owner/name", True),
        (("hf://owner/",), "hf://owner2/name", False),
    ],
)
def test_caller_with_a_key_pushes_where_the_deployment_allows(
    settings: Settings,
    redis: Redis,
    body: dict[str, Any],
    tmp_path: Path,
    outputs: tuple[str, ...],
    uri: str,
    allowed: bool,
) -> None:
    rooted = settings.model_copy(update={"local_roots": (tmp_path,), "output_uris": outputs})
    with TestClient(create_app(rooted)) as client:
        client.headers["Authorization"] = f"Bearer {ApiKeys(redis).create('search')[1]}"
        assert codes(client, body, uri) == {(200, None) if allowed else (403, "forbidden_path")}


def test_store_of_the_deployment_is_no_destination(
    settings: Settings, redis: Redis, body: dict[str, Any], s3: str
) -> None:
    own = settings.model_copy(update={"storage_url": "s3://tests/artifacts"})
    with TestClient(create_app(own)) as client:
        assert codes(client, body, "s3://tests/artifacts/other/jobs/1") == {(403, "forbidden_path")}
        assert codes(client, body, "s3://tests/artifacts2") == {(200, None)}


def test_setting_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIM_OUTPUT_URIS", "s3://slim/, hf://owner/")
    assert Settings().output_uris == ("s3://slim/", "hf://owner/")
