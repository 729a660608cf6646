"""Checks of a model's config and headers, and which of them are remembered."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from service.contract.errors import InvalidModel, InvalidRequest, TargetUnreachable, TaskslimError
from service.contract.request.job_request import JobRequest
from service.planning.feasibility import Feasibility
from service.sources.access import Access
from service.sources.model_directory import ModelDirectory
from service.sources.safetensors_header import Header
from tests.support import checkpoints
from tests.support.hub_cache import cache_hub_model
from tests.support.planning import request_for
from tests.support.requests import plain_request
from worker.checkpoints.model_classes.per_layer import to_loadable_class
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.surgery import slicing
from worker.slimming.units.groups import Site


def check(feasibility: Feasibility, request: JobRequest, access: Access) -> None:
    feasibility.check(request, ModelDirectory.of(request.model, access))


def test_a_feasible_request_is_not_checked_again(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    feasibility = Feasibility()
    check(feasibility, request_for(tmp_path, 0.3), access)
    (tmp_path / "model.safetensors").write_bytes(b"{")
    check(feasibility, request_for(tmp_path, 0.3), access)
    with pytest.raises(InvalidModel):
        check(feasibility, request_for(tmp_path, 0.4), access)


def test_a_refusal_is_not_remembered(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    feasibility = Feasibility()
    check(feasibility, request_for(tmp_path, 0.3), access)
    for _ in range(2):
        with pytest.raises(TargetUnreachable):
            check(feasibility, request_for(tmp_path, 0.95), access)


def test_weights_that_end_too_early_are_refused(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InvalidModel, match="its header describes"):
        check(Feasibility(), request_for(tmp_path), access)


def test_a_tokenizer_with_code_of_its_own_is_refused(access: Access, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Tokenizer", null]}}')
    with pytest.raises(InvalidModel, match="tokenizer with code of its own"):
        check(Feasibility(), request_for(tmp_path), access)


def refusal(request: JobRequest, access: Access) -> TaskslimError:
    with pytest.raises(InvalidRequest) as caught:
        check(Feasibility(), request, access)
    return caught.value


@pytest.mark.parametrize("name", ["mistral", "t5", "qwen2"])
def test_a_bias_is_refused_where_the_family_has_no_place_for_it(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, name)
    assert refusal(request_for(tmp_path, method={"repair": "bias"}), access).param == "method.repair"


def test_a_bias_is_refused_in_a_llama_that_loses_heads(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    request = request_for(tmp_path, method={"repair": "bias", "units": ["ffn", "heads"]})
    assert "any number of heads" in refusal(request, access).message
    check(Feasibility(), request_for(tmp_path, method={"repair": "bias"}), access)


def test_the_uniform_layout_is_refused_for_a_model_with_widths_per_layer(tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path, "llama")
    architecture, kept = ARCHITECTURES["llama"], {Site("decoder", 0, "ffn"): torch.arange(16)}
    slicing.cut(model, architecture, kept, "per_layer")
    to_loadable_class(model, architecture).save_pretrained(tmp_path)
    assert refusal(request_for(tmp_path), access).param == "output.layout"


def test_a_plan_and_a_job_refuse_the_same_head_counts(client: TestClient, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 3, "num_key_value_heads": 2}))
    body = request_for(tmp_path, method={"units": ["ffn"]}).model_dump(mode="json", exclude_unset=True)
    answers = [client.post(path, json=body) for path in ("/plans", "/jobs")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert all("3 heads and 2 key-value heads" in answer.json()["detail"] for answer in answers)


# --- models on a hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return cache_hub_model(monkeypatch, tmp_path)


@pytest.mark.usefixtures("hub")
def test_a_plan_and_a_job_refuse_the_same_hub_model(client: TestClient, body: dict[str, Any]) -> None:
    unreachable = body | {"model": {"uri": "hf://owner/name"}, "target": {"ratio": 0.95}, "output": {"round_to": 8}}
    answers = [client.post(path, json=unreachable) for path in ("/plans", "/jobs")]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert len({(answer.json()["code"], answer.json()["detail"]) for answer in answers}) == 1
    assert client.post("/jobs", json=unreachable | {"target": {"ratio": 0.3}}).status_code == 202


@pytest.mark.usefixtures("hub")
def test_a_job_is_accepted_while_the_hub_does_not_answer(client: TestClient, body: dict[str, Any]) -> None:
    unknown = body | {"model": {"uri": "hf://owner/other"}, "target": {"ratio": 0.95}}
    assert client.post("/jobs", json=unknown).status_code == 202


def test_labels_that_the_head_of_a_hub_model_lacks_are_refused_after_a_feasible_job(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = cache_hub_model(monkeypatch, tmp_path, "bert")
    body = request_for(directory, model={"uri": "hf://owner/name"}).model_dump(mode="json", exclude_unset=True)
    assert client.post("/jobs", json=body).status_code == 202
    body["task"]["labels"] = {"bad": "LABEL_0", "good": "LABEL_7"}
    answer = client.post("/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_labels")


def test_a_cached_hub_model_without_a_tokenizer_config_is_planned_offline(
    client: TestClient, body: dict[str, Any], hub: Path
) -> None:
    (hub / "tokenizer_config.json").unlink()
    named = body | {"model": {"uri": "hf://owner/name"}, "target": {"ratio": 0.3}, "output": {"round_to": 8}}
    assert client.post("/plans", json=named).status_code == 200
    answer = client.post("/jobs", json=named | {"target": {"ratio": 0.95}})
    assert (answer.status_code, answer.json()["code"]) == (422, "target_unreachable")


class SilentHub:
    """A directory on a hub that answers only when it is told to."""

    def __init__(self) -> None:
        self.released, self.questions = threading.Event(), list[str]()

    def has(self, name: str) -> bool:
        self.questions.append(name)
        self.released.wait(30)
        return False

    def content(self, name: str) -> bytes:
        raise AssertionError(name)

    def header(self, name: str) -> Header:
        raise AssertionError(name)

    def piece(self, name: str, start: int, end: int) -> bytes:
        raise AssertionError(name)


def test_a_silent_hub_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.planning.feasibility.HUB_SECONDS", 0.01)
    hub, feasibility, request = SilentHub(), Feasibility(), plain_request(model={"uri": "hf://owner/name"})
    try:
        for _ in range(2):
            feasibility.check(request, ModelDirectory(request.model, hub))
        assert len(hub.questions) == 1
    finally:
        hub.released.set()
