"""Downloads of artifacts: whole, in ranges, conditional, and by a signed URL of the object store."""

import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from ulid import ULID

from service.api.app import create_app
from service.api.file_responses import parse_range
from service.contract.ids import DEFAULT_TENANT
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support import http
from tests.support.finished_jobs import FILES, finish

WEIGHTS = FILES["model/model.safetensors"]


@pytest.fixture
def job(client: TestClient, body: dict[str, Any], job_store: JobStore, storage: Storage) -> str:
    """The path of a job that succeeded."""
    job_id = client.post("/jobs", json=body).json()["id"]
    finish(job_store.get(DEFAULT_TENANT, job_id), job_store, storage)
    return f"/jobs/{job_id}"


def test_files_of_a_job_are_listed_and_downloaded_unchanged(client: TestClient, job: str) -> None:
    listed = client.get(f"{job}/artifacts").json()["data"]
    assert {artifact["name"] for artifact in listed} == set(FILES)
    for artifact in listed:
        answer = client.get(artifact["url"])
        assert answer.content == FILES[artifact["name"]]
        assert artifact["sha256"] == hashlib.sha256(answer.content).hexdigest()
        assert int(answer.headers["content-length"]) == artifact["size"] == len(answer.content)
    assert client.get(f"{job}/artifacts/model/config.json").headers["content-type"] == "application/octet-stream"


def test_queued_job_has_no_files(client: TestClient, body: dict[str, Any]) -> None:
    job_id = client.post("/jobs", json=body).json()["id"]
    assert client.get(f"/jobs/{job_id}/artifacts").json()["data"] == []
    assert client.get(f"/jobs/{job_id}/report").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["nothing", "../manifest.json", "..%2fmanifest.json", "model", "model/", "%2fetc/passwd", "model/config.json%00"],
)
def test_file_outside_the_manifest_is_not_found(client: TestClient, job: str, name: str) -> None:
    assert client.get(f"{job}/artifacts/{name}").status_code == 404


def test_interrupted_download_is_resumed_with_a_range(client: TestClient, job: str) -> None:
    path = f"{job}/artifacts/model/model.safetensors"
    etag = client.get(path).headers["etag"]
    rest = client.get(path, headers={"Range": "bytes=1000-", "If-Range": etag})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes 1000-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
    assert rest.content == WEIGHTS[1000:]
    other = client.get(path, headers={"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, WEIGHTS)
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_range_after_the_end_is_a_problem(client: TestClient, job: str) -> None:
    answer = client.get(f"{job}/artifacts/model/model.safetensors", headers={"Range": "bytes=99999999-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(WEIGHTS)}"
    assert answer.headers["content-type"] == "application/problem+json"


@given(size=st.integers(0, 20), first=st.none() | st.integers(0, 25), last=st.none() | st.integers(0, 25))
def test_range_header_gives_its_span(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is None:
        wanted = content if last is None else content[max(0, size - last) :]
    else:
        wanted = content[first:] if last is None else content[first : last + 1]
    try:
        span = parse_range(header, size)
    except HTTPException:
        assert wanted == b""
        return
    if span is None:
        assert first is last is None or (first is not None and last is not None and last < first)
    else:
        assert content[slice(*span)] == wanted != b""


@pytest.mark.parametrize("header", ["bytes=0-1,3-4", "items=0-1", "bytes", "bytes=a-b", ""])
def test_header_without_a_single_range_is_ignored(header: str) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize("redirect", [True, False])
def test_download_redirects_to_the_object_store_where_that_is_enabled(
    s3: str, settings: Settings, body: dict[str, Any], job_store: JobStore, redirect: bool
) -> None:
    remote = settings.model_copy(update={"storage_url": f"s3://tests/{ULID()}", "redirect_downloads": redirect})
    with TestClient(create_app(remote), follow_redirects=False) as client:
        job_id = client.post("/jobs", json=body).json()["id"]
        finish(job_store.get(DEFAULT_TENANT, job_id), job_store, Storage(remote.storage_url))
        answer = client.get(f"/jobs/{job_id}/artifacts/model/model.safetensors", headers={"Range": "bytes=5-9"})
    if redirect:
        assert answer.status_code == 307
        served = http.get(answer.headers["location"], headers={"Range": "bytes=5-9"})
        assert (served.status_code, served.content) == (206, WEIGHTS[5:10])
    else:
        assert (answer.status_code, answer.content) == (206, WEIGHTS[5:10])
