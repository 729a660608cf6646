"""What is remembered of a model's widths, and for which requests."""

import threading
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from fastapi.testclient import TestClient

from service.contract.errors import TargetUnreachable
from service.contract.request import JobRequest
from service.contract.task import ModelSource
from service.planning.feasibility import Feasibility
from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.requests import plain_request

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def access(storage: Storage) -> Access:
    return Access(storage, "default", True, ())


def asking(model: Path, ratio: float) -> JobRequest:
    return plain_request(model={"uri": model.as_uri()}, target={"ratio": ratio}, output={"round_to": 8})


def test_a_second_request_for_the_same_widths_reads_no_headers(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama")
    possible = Feasibility()
    possible.check(asking(tmp_path / "model", 0.3), access)
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    possible.check(asking(tmp_path / "model", 0.3), access)


def test_other_widths_are_looked_at_and_a_refusal_is_not_remembered(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama")
    possible = Feasibility()
    possible.check(asking(tmp_path / "model", 0.3), access)
    for _ in range(2):
        with pytest.raises(TargetUnreachable):
            possible.check(asking(tmp_path / "model", 0.95), access)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub client's local cache with the model hf://owner/name, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub/models--owner--name"
    checkpoints.write(repository / "snapshots" / COMMIT, "llama")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)


@pytest.mark.usefixtures("hub")
def test_a_job_on_a_hub_model_is_refused_what_its_plan_is(client: TestClient, body: dict[str, Any]) -> None:
    impossible = body | {"model": {"uri": "hf://owner/name"}, "target": {"ratio": 0.95}, "output": {"round_to": 8}}
    answers = [client.post(path, json=impossible) for path in ("/plans", "/jobs")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert len({(answer.json()["code"], answer.json()["detail"]) for answer in answers}) == 1
    assert client.post("/jobs", json=impossible | {"target": {"ratio": 0.3}}).status_code == 202


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer_is_left_to_the_worker(client: TestClient, body: dict[str, Any]) -> None:
    unknown = body | {"model": {"uri": "hf://owner/other"}, "target": {"ratio": 0.95}}
    assert client.post("/jobs", json=unknown).status_code == 202


def test_a_hub_is_waited_for_no_longer_than_a_client_would(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    answered, asked = threading.Event(), list[ModelSource]()

    def keep_waiting(source: ModelSource) -> bool:
        asked.append(source)
        return answered.wait(30)

    monkeypatch.setattr("service.planning.feasibility.HUB_SECONDS", 0.01)
    monkeypatch.setattr("service.planning.feasibility.describes_itself", keep_waiting)
    possible, request = Feasibility(), plain_request(model={"uri": "hf://owner/name"})
    try:
        for _ in range(2):
            possible.check_on_hub(request, access)
    finally:
        answered.set()
    assert len(asked) == 1
