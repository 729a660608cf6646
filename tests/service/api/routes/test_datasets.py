"""The routes of data sets."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.settings import Settings
from service.storage.object_store import Storage

LINES = {"Content-Type": "application/jsonl"}
ROWS = b'{"text": "I was charged twice.", "label": "billing"}\n{"text": "Where is it?", "label": "delivery"}\n' * 4


def upload(client: TestClient, content: Any = ROWS, **params: str) -> dict[str, Any]:
    answer = client.post("/datasets", content=content, headers=LINES, params=params)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"].endswith(f"/datasets/{answer.json()['id']}")
    dataset: dict[str, Any] = answer.json()
    return dataset


def in_pieces(body: bytes, size: int = 7) -> Iterator[bytes]:
    """A body that is sent without a Content-Length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_job_reads_an_uploaded_data_set(client: TestClient, body: dict[str, Any]) -> None:
    dataset = upload(client, in_pieces(ROWS), name="tickets")
    assert (dataset["rows"], dataset["columns"], dataset["name"]) == (8, ["text", "label"], "tickets")
    task = body["task"] | {"calibration": {"uri": dataset["uri"]}}
    assert client.post("/jobs", json=body | {"task": task}).status_code == 202


def test_upload_names_the_column_of_the_targets(client: TestClient) -> None:
    assert upload(client, target="label")["columns"] == ["text", "target"]


def test_uploads_are_listed_read_and_deleted(client: TestClient, storage: Storage) -> None:
    datasets = [upload(client) for _ in range(3)]
    page = client.get("/datasets", params={"limit": 2}).json()
    assert page["data"] == datasets[:0:-1]
    rest = client.get("/datasets", params={"cursor": page["next_cursor"]}).json()
    assert (rest["data"], rest["has_more"]) == (datasets[:1], False)
    assert client.get(f"/datasets/{datasets[0]['id']}").json() == datasets[0]
    for dataset in datasets:
        assert client.delete(f"/datasets/{dataset['id']}").status_code == 204
        assert client.get(f"/datasets/{dataset['id']}").json()["code"] == "not_found"
        assert client.delete(f"/datasets/{dataset['id']}").status_code == 404
    assert storage.list("default/") == []


def test_upload_of_invalid_rows_leaves_no_file(client: TestClient, storage: Storage) -> None:
    answer = client.post("/datasets", content=ROWS + b"{", headers=LINES)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_data")
    assert "line 9" in answer.json()["detail"]
    assert storage.list("default/") == []
    assert client.get("/datasets").json()["data"] == []


def test_upload_with_an_unsupported_format_is_refused(client: TestClient) -> None:
    for headers in ({"Content-Type": "text/html"}, {"Content-Type": ""}):
        answer = client.post("/datasets", content=ROWS, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (415, "application/problem+json")


@pytest.mark.parametrize("content", [b"x" * 2001, None])
def test_upload_over_the_limit_is_refused_by_declared_and_by_received_length(
    settings: Settings, content: bytes | None
) -> None:
    small = settings.model_copy(update={"max_dataset_bytes": 2000, "max_body_bytes": 100})
    with TestClient(create_app(small), raise_server_exceptions=False) as client:
        upload(client)
        answer = client.post("/datasets", content=content or in_pieces(b"x" * 2001), headers=LINES)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert client.post("/jobs", content=b"x" * 101).status_code == 413
