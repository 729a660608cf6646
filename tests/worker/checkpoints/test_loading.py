import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from gguf import GGUFWriter
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Gemma3Config, PreTrainedModel

from service.contract.errors import ForbiddenPath, InvalidModel, TaskslimError, UnsupportedFamily
from service.contract.options import Layout
from service.contract.task import ModelSource
from service.sources.model_files import INDEX
from tests.support import checkpoints
from tests.support.tiny_models import TINY, VOCABULARY
from worker.checkpoints import dtypes
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.dtypes import cast_weights, weight_dtypes
from worker.checkpoints.fetching import fetch_adapter, fetch_model
from worker.checkpoints.loading import count_parameters, load_model
from worker.checkpoints.saving import save_model
from worker.slimming.units import Site

CPU = torch.device("cpu")
LORA = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint of a tiny Llama."""
    checkpoints.write(tmp_path / "model")
    return tmp_path / "model"


def fetch(uri: str, tmp_path: Path, **options: Any) -> Path:
    return fetch_model(ModelSource(uri=uri), scratch=tmp_path / "scratch", cache=tmp_path / "cache", **options)


def logits(model: PreTrainedModel) -> Tensor:
    inputs = {"input_ids": torch.arange(4, 24).view(2, 10)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(4, 12).view(2, 4)
    with torch.inference_mode():
        answer: Tensor = model(**inputs).logits
    return answer


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_loaded_as_it_was_saved(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    saved = checkpoints.write(tmp_path / "model", name)
    loaded = load_model(fetch((tmp_path / "model").as_uri(), tmp_path), device=CPU)
    assert type(loaded.model) is type(saved)
    assert loaded.family.model_type == saved.config.model_type
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert torch.equal(logits(loaded.model), logits(saved))


@pytest.mark.parametrize(
    ("dtype", "computed_in"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)],
)
@pytest.mark.parametrize("name", ["llama", "t5_gated"])
def test_a_checkpoint_is_saved_in_its_own_dtype(
    tmp_path: Path, name: str, dtype: torch.dtype, computed_in: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: True)
    checkpoints.write(tmp_path / "model", name, dtype)
    loaded = load_model(tmp_path / "model", device=CPU)
    before = logits(loaded.model)
    assert set(weight_dtypes(loaded.model).values()) == {computed_in}
    save_model(loaded, tmp_path / "again")
    written, original = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "model"))
    assert {tensor.dtype for tensor in written.values()} == {dtype}
    assert all(torch.equal(written[key], original[key]) for key in original)
    assert torch.equal(logits(loaded.model), before)


def test_saved_weights_have_the_permissions_of_the_config(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "llama", torch.float32)
    save_model(load_model(tmp_path / "model", device=CPU), tmp_path / "again")
    modes = {(tmp_path / "again" / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_a_cpu_without_bfloat16_computes_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "model", device=CPU)
    assert set(weight_dtypes(loaded.model).values()) == {torch.float32}
    assert loaded.dtype is torch.bfloat16


def test_a_slim_model_has_weights_that_its_checkpoint_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "has_bfloat16", lambda: False)
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "model", device=CPU)
    weight = loaded.model.get_parameter("model.layers.0.mlp.down_proj.weight")
    weight.add_(1e-5)
    slim = make_slim(loaded, {Site("decoder", layer, "ffn"): torch.arange(16) for layer in (0, 1)}, Layout.uniform)
    measured = {name: parameter.clone() for name, parameter in slim.model.named_parameters()}
    save_model(slim, tmp_path / "slim")
    written = load_model(tmp_path / "slim", device=CPU).model
    assert all(torch.equal(written.get_parameter(name), value) for name, value in measured.items())


def test_casting_leaves_rotary_frequencies_unchanged(directory: Path) -> None:
    model = load_model(directory, device=CPU).model
    frequencies = dict(model.named_buffers())["model.rotary_emb.inv_freq"].clone()
    cast_weights(model, torch.bfloat16)
    assert torch.equal(dict(model.named_buffers())["model.rotary_emb.inv_freq"], frequencies)


def test_shared_parameters_are_counted_once() -> None:
    tied, untied = TINY["t5"](), TINY["t5_gated"]()
    assert count_parameters(tied) == sum(tensor.numel() for tensor in set(tied.parameters()))
    assert count_parameters(untied) - count_parameters(tied) > 32 * VOCABULARY


# --- what is refused -------------------------------------------------------------------------------------------------


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pickle_only(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def tokenizer_with_code(directory: Path) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": "code.Mine"}}))


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_that_points_outside(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory.parent / "model.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def lacking_weight(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


DAMAGE: dict[str, tuple[Callable[[Path], None], type[TaskslimError], str]] = {
    "missing": (lambda path: shutil.rmtree(path), InvalidModel, "does not exist"),
    "no config": (lambda path: (path / "config.json").unlink(), InvalidModel, "config.json is missing"),
    "bad config": (lambda path: (path / "config.json").write_text("{"), InvalidModel, "cannot be read"),  # type: ignore[dict-item]
    "pickle": (pickle_only, InvalidModel, "save them as safetensors"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), InvalidModel, "no model.safetensors"),
    "remote code": (lambda path: change_config(path, auto_map={"AutoModel": "code.Mine"}), InvalidModel, "auto_map"),
    "tokenizer code": (tokenizer_with_code, InvalidModel, "auto_map"),
    "quantised": (
        lambda path: change_config(path, quantization_config={"quant_method": "awq"}),
        InvalidModel,
        "quantised",
    ),
    "family": (lambda path: change_config(path, model_type="mamba"), UnsupportedFamily, "'mamba', is not supported"),
    "no family": (lambda path: change_config(path, model_type=None), UnsupportedFamily, "None, is not supported"),
    "multimodal": (
        lambda path: change_config(path, **Gemma3Config().to_dict()),
        UnsupportedFamily,
        "vision tower",
    ),
    "offsets": (checkpoints.write_wrong_offsets, InvalidModel, "model.safetensors is damaged"),
    "truncated": (truncated, InvalidModel, "model.safetensors is damaged"),
    "index": (index_that_points_outside, InvalidModel, "does not name files of its own directory"),
}
CONTRADICTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "lacking": (lacking_weight, r"needs weights that the checkpoint lacks: model.layers.1.mlp.up_proj"),
    "shapes": (lambda path: change_config(path, intermediate_size=56), "do not have the shapes"),
    "values": (lambda path: change_config(path, hidden_size="wide"), "cannot be loaded"),
    "tokenizer": (lambda path: (path / "tokenizer.json").write_text("{"), "the tokenizer cannot"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_invalid_checkpoint_is_refused_before_it_is_loaded(directory: Path, tmp_path: Path, damage: str) -> None:
    do_damage, error, message = DAMAGE[damage]
    do_damage(directory)
    with pytest.raises(error, match=message) as caught:
        fetch(directory.as_uri(), tmp_path)
    assert caught.value.param == "model.uri"


@pytest.mark.parametrize("damage", CONTRADICTIONS)
def test_a_checkpoint_whose_files_contradict_each_other_is_refused(directory: Path, damage: str) -> None:
    do_damage, message = CONTRADICTIONS[damage]
    do_damage(directory)
    with pytest.raises(InvalidModel, match=message):
        load_model(directory, device=CPU)


def test_an_encoder_without_a_classification_head_is_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "bert")
    tensors = load_file(tmp_path / "model/model.safetensors")
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    save_file(headless, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidModel, match="lacks: classifier"):
        load_model(tmp_path / "model", device=CPU)


def test_paths_outside_the_allowed_roots_are_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ForbiddenPath):
        fetch(directory.as_uri(), tmp_path, roots=[tmp_path / "elsewhere"])


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A local cache of the hub client, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_model_comes_from_the_local_cache_by_revision(hub: Path, directory: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = hub / "models--owner--name"
    shutil.copytree(directory, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        source = ModelSource(uri="hf://owner/name", revision=revision)
        found = fetch_model(source, scratch=tmp_path, cache=tmp_path / "cache")
        assert found == repository / "snapshots" / commit
    with pytest.raises(InvalidModel, match="not in the local cache"):
        fetch_model(ModelSource(uri="hf://owner/name", revision="other"), scratch=tmp_path, cache=tmp_path)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("uri", ["hf://owner/unknown", "hf://a/b/c", "hf://"])
def test_an_unknown_hub_model_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InvalidModel):
        fetch(uri, tmp_path)


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(InvalidModel, match="not a readable GGUF"):
        fetch((tmp_path / "model.gguf").as_uri(), tmp_path)


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedFamily, match="'mamba' are not supported"):
        fetch(tmp_path.as_uri(), tmp_path)


def test_a_directory_with_several_gguf_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InvalidModel, match="2 GGUF files: name one"):
        fetch(tmp_path.as_uri(), tmp_path)


# --- adapters --------------------------------------------------------------------------------------------------------


def write_adapter(directory: Path, name: str = "llama", **options: Any) -> dict[str, Tensor]:
    """Save a random LoRA adapter of the tiny model; its tensors."""
    torch.manual_seed(0)
    config: dict[str, Any] = LORA | options
    get_peft_model(TINY[name](), LoraConfig(**config)).save_pretrained(str(directory))
    return load_file(directory / "adapter_model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_added_to_the_weights_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.write(tmp_path / "model", dtype=dtype)
    base = load_file(tmp_path / "model/model.safetensors")
    adapter = write_adapter(tmp_path / "adapter")
    fetched = fetch_adapter((tmp_path / "adapter").as_uri(), scratch=tmp_path)
    merged = load_model(tmp_path / "model", device=CPU, adapter=fetched).model.state_dict()
    for name, weight in base.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        if key.format("A") in adapter:
            delta = adapter[key.format("B")] @ adapter[key.format("A")] * (8 / 2)
            weight = (weight.float() + delta).to(dtype)
            assert not torch.equal(weight, base[name])
        assert torch.equal(merged[name], weight), name


def test_a_merged_model_is_saved_as_a_stock_checkpoint(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model")
    write_adapter(tmp_path / "adapter")
    loaded = load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    save_model(loaded, tmp_path / "merged")
    again = load_model(tmp_path / "merged", device=CPU)
    assert torch.equal(logits(again.model), logits(loaded.model))
    assert type(again.model) is type(TINY["llama"]())


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "model", "gpt2")
    write_adapter(tmp_path / "adapter")
    with pytest.raises(InvalidModel, match="does not fit the model") as caught:
        load_model(tmp_path / "model", device=CPU, adapter=tmp_path / "adapter")
    assert caught.value.param == "model.adapter_uri"


def test_only_lora_adapters_in_safetensors_are_accepted(tmp_path: Path) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(TINY["llama"](), prompt).save_pretrained(str(tmp_path / "prompt"))
    write_adapter(tmp_path / "pickled")
    (tmp_path / "pickled/adapter_model.safetensors").rename(tmp_path / "pickled/adapter_model.bin")
    for name, message in (("prompt", "only LoRA"), ("pickled", "is missing"), ("absent", "does not exist")):
        with pytest.raises(InvalidModel, match=message) as caught:
            fetch_adapter((tmp_path / name).as_uri(), scratch=tmp_path)
        assert caught.value.param == "model.adapter_uri"
