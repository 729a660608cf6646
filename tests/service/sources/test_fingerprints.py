"""A fingerprint changes with the files of a request, in a directory and in a bucket."""

from pathlib import Path
from typing import Any

import pytest
from ulid import ULID

from service.contract.request.job_request import JobRequest
from service.sources.access import Access
from service.sources.fingerprints import MAX_READ_BYTES, fingerprints
from service.sources.readers import file_mark, file_marks
from service.storage.keys import dataset_key
from service.storage.object_store import Storage
from tests.support.job_requests import model_directory


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of a directory or a prefix for models and rows."""
    if request.param == "file":
        return (tmp_path / "place").as_uri()
    request.getfixturevalue("s3")
    return f"s3://bucket/{ULID()}"


def put(place: str, name: str, content: bytes) -> str:
    """Store a file; its URI."""
    Storage(place).put_bytes(content, name)
    return f"{place}/{name}"


def test_marks_change_with_the_files(place: str) -> None:
    uri = put(place, "model/config.json", b"{}")
    put(place, "model/model.safetensors", b"weights")
    before = file_marks(f"{place}/model")
    assert before.keys() == {"config.json", "model.safetensors"}
    assert file_mark(uri) == before["config.json"]
    put(place, "model/config.json", b"{ }")
    after = file_marks(f"{place}/model")
    assert after["config.json"] != before["config.json"]
    assert after["model.safetensors"] == before["model.safetensors"]


def test_a_fingerprint_changes_with_model_adapter_and_rows(
    place: str, storage: Storage, body: dict[str, Any], tmp_path: Path
) -> None:
    model_directory(tmp_path / "source")
    for path in (tmp_path / "source").iterdir():
        put(place, f"model/{path.name}", path.read_bytes())
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        put(place, f"adapter/{name}", b"1")
    task = body["task"] | {"calibration": {"uri": put(place, "rows.jsonl", b"{}\n")}}
    source = {"uri": f"{place}/model", "adapter_uri": f"{place}/adapter"}
    request = JobRequest.model_validate(body | {"task": task, "model": source})
    access = Access(storage, "default", True, ())
    found = [fingerprints(request, access).units]
    for name in ("model/config.json", "adapter/adapter_config.json", "rows.jsonl"):
        put(place, name, b"something else")
        found.append(fingerprints(request, access).units)
    assert len(set(found)) == len(found)
    put(place, "model/README.md", b"no part of the model")
    put(place, "adapter/README.md", b"no part of the adapter")
    assert fingerprints(request, access).units == found[-1]


def test_a_large_data_set_is_named_by_its_size_and_etag(storage: Storage, body: dict[str, Any]) -> None:
    access = Access(storage, "default", True, ())
    found = set()
    for content in (b"x" * (MAX_READ_BYTES + 1), b"y" * (MAX_READ_BYTES + 2)):
        storage.put_bytes(content, dataset_key("default", "large"))
        task = body["task"] | {"calibration": {"uri": "dataset://large"}}
        found.add(fingerprints(JobRequest.model_validate(body | {"task": task}), access).units)
    assert len(found) == 2
