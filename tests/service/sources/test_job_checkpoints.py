"""A slim model as the next job's model: found by its job's id, of one's own tenant alone, and only once it is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.contract.errors import InvalidModel, NotFound
from service.contract.ids import DEFAULT_TENANT
from service.contract.request import JobRequest
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.settings import Settings
from service.sources.job_checkpoints import job_model
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support.finished_jobs import finish
from tests.support.job_requests import model_directory

Leave = Callable[..., str]


@pytest.fixture
def leave(job_store: JobStore, storage: Storage, body: dict[str, Any], tmp_path: Path) -> Leave:
    """Makes a job that has succeeded and left a checkpoint under each of these names; its id."""
    model_directory(tmp_path / "slim")
    request = JobRequest.model_validate(body | {"task": body["task"] | {"calibration": {"uri": "dataset://rows"}}})

    def make(*names: str, tenant: str = DEFAULT_TENANT) -> str:
        record = job_store.accept(new_record(request, tenant=tenant))
        files = {f"{name}/{path.name}": path.read_bytes() for name in names for path in (tmp_path / "slim").iterdir()}
        finish(record, job_store, storage, files | {"report.json": b"{}"})
        return record.id

    return make


def naming(body: dict[str, Any], uri: str) -> dict[str, Any]:
    return body | {"model": {"uri": uri}}


@pytest.mark.parametrize("end", ["", "/", "/model", "/model-0.3"])
def test_what_a_job_has_left_is_admitted_and_planned_like_a_directory(
    client: TestClient, body: dict[str, Any], leave: Leave, end: str
) -> None:
    uri = f"job://{leave('model', 'model-0.3')}{end}"
    planned = client.post("/plans", json=naming(body, uri))
    assert planned.status_code == 200, planned.text
    assert planned.json() == client.post("/plans", json=body).json()
    submitted = client.post("/jobs", json=naming(body, uri))
    assert (submitted.status_code, submitted.json()["request"]["model"]["uri"]) == (202, uri)


NOT_THERE = {
    "unfinished": "job://{queued}",
    "foreign": "job://{foreign}",
    "unknown": "job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    "no such checkpoint": "job://{left}/model-0.7",
    "without checkpoint": "job://{bare}",
    "a file of it": "job://{left}/config.json",
    "another directory": "job://{left}/../{left}/model",
    "no id": "job://latest",
}


@pytest.mark.parametrize("case", NOT_THERE)
def test_what_is_not_there_for_the_caller_is_refused_alike_by_jobs_and_plans(
    client: TestClient, body: dict[str, Any], leave: Leave, case: str
) -> None:
    queued = client.post("/jobs", json=body).json()["id"]
    ids = {"queued": queued, "foreign": leave("model", tenant="ads"), "left": leave("model"), "bare": leave()}
    answers = [client.post(path, json=naming(body, NOT_THERE[case].format(**ids))) for path in ("/jobs", "/plans")]
    assert [answer.status_code for answer in answers] == [422, 422]
    problem = answers[0].json()
    assert (problem["code"], problem["errors"][0]["param"]) == ("invalid_model", "model.uri")
    assert answers[1].json() == problem | {"instance": "/plans"}


def test_a_deleted_parent_is_no_model_any_more(client: TestClient, body: dict[str, Any], leave: Leave) -> None:
    parent = leave("model")
    assert client.delete(f"/jobs/{parent}").status_code == 204
    answer = client.post("/jobs", json=naming(body, f"job://{parent}"))
    assert answer.json()["code"] == "invalid_model"


def test_a_job_is_within_reach_of_a_key_whatever_prefixes_are_allowed(
    settings: Settings, body: dict[str, Any], leave: Leave, redis: Redis
) -> None:
    narrow = settings.model_copy(update={"allowed_uris": ("hf://owner/",)})
    _, key = ApiKeys(redis).create()
    rows = {"rows": body["task"]["calibration"]["rows"]}
    asked = naming(body, f"job://{leave('model')}") | {"task": body["task"] | {"calibration": rows}}
    with TestClient(create_app(narrow), headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.post("/jobs", json=asked).status_code == 202


def test_a_job_leaves_no_adapter(client: TestClient, body: dict[str, Any], leave: Leave) -> None:
    uri = f"job://{leave('model')}"
    answer = client.post("/jobs", json=body | {"model": body["model"] | {"adapter_uri": uri}})
    assert (answer.json()["code"], answer.json()["errors"][0]["param"]) == ("invalid_model", "model.adapter_uri")


def test_a_download_is_every_file_as_it_was_left_or_an_error(leave: Leave, storage: Storage, tmp_path: Path) -> None:
    left = job_model(f"job://{leave('model')}", storage, DEFAULT_TENANT)
    heard: list[tuple[int, int]] = []
    directory = left.download(tmp_path / "down", lambda done, total: heard.append((done, total)))
    slim = {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()}
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == slim
    assert heard[-1] == (sum(map(len, slim.values())),) * 2
    storage.put_bytes(b"{}", f"{left.prefix}model/config.json")
    with pytest.raises(InvalidModel, match="damaged"):
        left.download(tmp_path / "again", lambda done, total: None)
    storage.delete_prefix(left.prefix)
    with pytest.raises(NotFound):
        left.download(tmp_path / "gone", lambda done, total: None)
