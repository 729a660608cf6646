"""Models and adapters that are brought to this machine, and those that are refused."""

from pathlib import Path
from typing import Any

import pytest
from peft import PromptTuningConfig, get_peft_model

from service.contract.errors import ForbiddenPath, InvalidModel
from service.contract.request.task import ModelSource
from tests.support import checkpoints
from tests.support.hub_cache import COMMIT, cache_hub_model
from tests.support.tiny_models import TINY
from worker.sources.fetching import FetchedModel, fetch_adapter, fetch_model


def fetch(uri: str, tmp_path: Path, **options: Any) -> FetchedModel:
    return fetch_model(ModelSource(uri=uri), scratch=tmp_path / "scratch", cache=tmp_path / "cache", **options)


@pytest.mark.parametrize(("name", "message"), [("none", "does not exist"), ("model", "no model.safetensors")])
def test_a_missing_or_an_invalid_directory_is_refused(directory: Path, tmp_path: Path, name: str, message: str) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(InvalidModel, match=message) as caught:
        fetch((tmp_path / name).as_uri(), tmp_path)
    assert caught.value.param == "model.uri"


def test_paths_outside_the_allowed_roots_are_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ForbiddenPath):
        fetch(directory.as_uri(), tmp_path, roots=[tmp_path / "elsewhere"])


def test_a_hub_model_comes_from_the_local_cache_by_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = cache_hub_model(monkeypatch, tmp_path)
    for revision in (None, "main", COMMIT):
        source = ModelSource(uri="hf://owner/name", revision=revision)
        found = fetch_model(source, scratch=tmp_path, cache=tmp_path / "cache")
        assert found == (directory, directory, None)
    with pytest.raises(InvalidModel, match="not in the local cache"):
        fetch_model(ModelSource(uri="hf://owner/name", revision="other"), scratch=tmp_path, cache=tmp_path)


@pytest.mark.parametrize("uri", ["hf://owner/unknown", "hf://a/b/c", "hf://"])
def test_an_unknown_hub_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str) -> None:
    cache_hub_model(monkeypatch, tmp_path)
    with pytest.raises(InvalidModel):
        fetch(uri, tmp_path)


def test_a_directory_with_several_gguf_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InvalidModel, match="2 GGUF files: name one"):
        fetch(tmp_path.as_uri(), tmp_path)


def test_only_lora_adapters_in_safetensors_are_accepted(tmp_path: Path) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(TINY["llama"](), prompt).save_pretrained(str(tmp_path / "prompt"))
    checkpoints.write_adapter(tmp_path / "pickled")
    (tmp_path / "pickled/adapter_model.safetensors").rename(tmp_path / "pickled/adapter_model.bin")
    for name, message in (("prompt", "only LoRA"), ("pickled", "is missing"), ("absent", "does not exist")):
        with pytest.raises(InvalidModel, match=message) as caught:
            fetch_adapter((tmp_path / name).as_uri(), scratch=tmp_path)
        assert caught.value.param == "model.adapter_uri"
