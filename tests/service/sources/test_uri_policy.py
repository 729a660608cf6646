"""A stranger names what the deployment allows, in no spelling anything else."""

from pathlib import Path
from typing import Any

import obstore
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.api.app import create_app
from service.contract.errors import ForbiddenPath
from service.settings import Settings
from service.sources.readers import fetch_file, fetch_prefix, local_path
from service.sources.uri_policy import UriPolicy, canonical
from service.tenants.api_keys import ApiKeys
from tests.support.job_requests import model_directory

OWN = "s3://bucket/artifacts"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/artifacts/other/jobs/1",
        "s3://bucket/artifacts",
        "S3://bucket//artifacts/./x",
        "s3://bucket/%61rtifacts/x",
        "s3://bucket/%2561rtifacts/x",
        "s3://bucket/models/../artifacts/x",
        "s3://bucket/models/%2e%2e/artifacts/x",
        "s3://bucket/models/%252e%252e/artifacts/x",
        "s3://bucket",
        "s3://bucket/",
    ],
)
def test_the_deployment_s_own_storage_is_out_of_reach(uri: str) -> None:
    with pytest.raises(ForbiddenPath):
        UriPolicy(OWN).check(uri)


def test_other_places_are_within_reach_unless_prefixes_say_otherwise() -> None:
    for uri in ("s3://bucket/artifacts2/x", "s3://other/artifacts", "hf://owner/name", "gs://bucket/artifacts/x"):
        UriPolicy(OWN).check(uri)
    narrow = UriPolicy(OWN, ["hf://owner/", "s3://models"])
    narrow.check("hf://owner/name")
    narrow.check("s3://models/a/b")
    for uri in ("hf://owner2/name", "hf://own", "s3://models2/a", "s3://models/../bucket2/a"):
        with pytest.raises(ForbiddenPath):
            narrow.check(uri)


@given(st.text(max_size=50))
def test_a_place_has_one_spelling(rest: str) -> None:
    try:
        once = canonical(f"s3://{rest}")
    except ForbiddenPath:
        return
    assert "/../" not in once
    assert once.endswith("/")


def test_a_link_in_a_model_s_directory_does_not_lead_out(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    secret.write_text("{}")
    model_directory(allowed / "model")
    (allowed / "model" / "blob").symlink_to(allowed / "model" / "config.json")
    local_path((allowed / "model").as_uri(), [allowed])
    (allowed / "model" / "tokenizer.json").unlink()
    (allowed / "model" / "tokenizer.json").symlink_to(secret)
    with pytest.raises(ForbiddenPath, match=r"tokenizer\.json"):
        local_path((allowed / "model").as_uri(), [allowed])


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "link/evil", ".."])
def test_a_name_in_an_object_store_does_not_lead_out_of_the_directory(
    name: str, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "link").symlink_to(tmp_path)
    monkeypatch.setattr(obstore, "list", lambda store: [[{"path": name, "size": 1}]])
    with pytest.raises(ForbiddenPath, match="leads out"):
        fetch_prefix("s3://tests/model", directory)


def test_the_name_of_a_file_does_not_lead_out_of_the_directory(tmp_path: Path, s3: str) -> None:
    with pytest.raises(ForbiddenPath, match="leads out"):
        fetch_file("s3://tests/model/..", tmp_path)


def test_over_http_a_tenant_cannot_name_the_storage_of_all(
    settings: Settings, body: dict[str, Any], redis: Redis, tmp_path: Path
) -> None:
    text = ApiKeys(redis).create("search")[1]
    rooted = settings.model_copy(update={"local_roots": (tmp_path,)})
    with TestClient(create_app(rooted)) as client:
        client.headers["Authorization"] = f"Bearer {text}"
        assert client.post("/jobs", json=body).status_code == 202
        artifacts = settings.state / "artifacts"
        model_directory(artifacts / "ads" / "jobs" / "1")
        for path in (artifacts / "ads" / "jobs" / "1", artifacts, settings.state):
            answer = client.post("/jobs", json=body | {"model": {"uri": path.as_uri()}})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_path"), path
            assert answer.json()["errors"][0]["param"] == "model.uri"
