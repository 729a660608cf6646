"""A slim model as the model of the next job: named by the id of its job, of the same tenant, once it has succeeded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.contract.errors import InvalidModel, NotFound
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.jobs.store import JobStore
from service.settings import Settings
from service.sources.job_checkpoints import job_model
from service.storage.keys import manifest_key
from service.storage.object_store import Storage
from service.tenants.api_keys import ApiKeys
from tests.support.finished_jobs import finish
from tests.support.job_requests import model_directory

Store = Callable[..., str]


@pytest.fixture
def store(job_store: JobStore, storage: Storage, body: dict[str, Any], tmp_path: Path) -> Store:
    """Makes a job that has succeeded and stored a checkpoint under each of these names; its id."""
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
def test_a_checkpoint_of_a_job_is_accepted_and_planned_as_a_directory_is(
    client: TestClient, body: dict[str, Any], store: Store, end: str
) -> None:
    uri = f"job://{store('model', 'model-0.3')}{end}"
    planned = client.post("/plans", json=naming(body, uri))
    assert planned.status_code == 200, planned.text
    assert planned.json() == client.post("/plans", json=body).json()
    submitted = client.post("/jobs", json=naming(body, uri))
    assert (submitted.status_code, submitted.json()["request"]["model"]["uri"]) == (202, uri)


@pytest.mark.parametrize("path", ["/jobs", "/plans"])
def test_one_submission_reads_the_manifest_once(
    client: TestClient,
    body: dict[str, Any],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    job_id = store("model")
    read: list[str] = []
    get_bytes = Storage.get_bytes

    def counted(storage: Storage, key: str) -> bytes:
        read.append(key)
        return get_bytes(storage, key)

    monkeypatch.setattr(Storage, "get_bytes", counted)
    assert client.post(path, json=naming(body, f"job://{job_id}")).status_code < 300
    assert read.count(manifest_key(DEFAULT_TENANT, job_id)) == 1


MISSING = {
    "unfinished": "job://{queued}",
    "foreign": "job://{foreign}",
    "unknown": "job://01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
    "no such checkpoint": "job://{stored}/model-0.7",
    "without checkpoint": "job://{bare}",
    "a file of it": "job://{stored}/config.json",
    "another directory": "job://{stored}/../{stored}/model",
    "no id": "job://latest",
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_checkpoint_is_refused_by_jobs_and_plans_with_the_same_problem(
    client: TestClient, body: dict[str, Any], store: Store, case: str
) -> None:
    queued = client.post("/jobs", json=body).json()["id"]
    ids = {
        "queued": queued,
        "foreign": store("model", tenant="ads"),
        "stored": store("model"),
        "bare": store(),
    }
    answers = [client.post(path, json=naming(body, MISSING[case].format(**ids))) for path in ("/jobs", "/plans")]
    assert [answer.status_code for answer in answers] == [422, 422]
    problem = answers[0].json()
    assert (problem["code"], problem["errors"][0]["param"]) == ("invalid_model", "model.uri")
    assert answers[1].json() == problem | {"instance": "/plans"}


def test_a_checkpoint_of_a_deleted_job_is_refused(client: TestClient, body: dict[str, Any], store: Store) -> None:
    parent = store("model")
    assert client.delete(f"/jobs/{parent}").status_code == 204
    answer = client.post("/jobs", json=naming(body, f"job://{parent}"))
    assert answer.json()["code"] == "invalid_model"


def test_a_key_may_name_a_job_whatever_prefixes_are_allowed(
    settings: Settings, body: dict[str, Any], store: Store, redis: Redis
) -> None:
    narrow = settings.model_copy(update={"allowed_uris": ("hf://owner/",)})
    _, key = ApiKeys(redis).create()
    rows = {"rows": body["task"]["calibration"]["rows"]}
    asked = naming(body, f"job://{store('model')}") | {"task": body["task"] | {"calibration": rows}}
    with TestClient(create_app(narrow), headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.post("/jobs", json=asked).status_code == 202


def test_a_checkpoint_of_a_job_is_no_adapter(client: TestClient, body: dict[str, Any], store: Store) -> None:
    uri = f"job://{store('model')}"
    answer = client.post("/jobs", json=body | {"model": body["model"] | {"adapter_uri": uri}})
    assert (answer.json()["code"], answer.json()["errors"][0]["param"]) == ("invalid_model", "model.adapter_uri")


def test_a_download_has_every_file_as_it_was_stored_or_raises_an_error(
    store: Store, storage: Storage, tmp_path: Path
) -> None:
    stored = job_model(f"job://{store('model')}", storage, DEFAULT_TENANT)
    received: list[tuple[int, int]] = []
    directory = stored.download(tmp_path / "down", lambda done, total: received.append((done, total)))
    slim = {path.name: path.read_bytes() for path in (tmp_path / "slim").iterdir()}
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == slim
    assert received[-1] == (sum(map(len, slim.values())),) * 2
    storage.put_bytes(b"{}", f"{stored.prefix}model/config.json")
    with pytest.raises(InvalidModel, match="damaged"):
        stored.download(tmp_path / "again", lambda done, total: None)
    storage.delete_prefix(stored.prefix)
    with pytest.raises(NotFound):
        stored.download(tmp_path / "gone", lambda done, total: None)
