"""Checkpoints that are loaded, and the files that a class cannot be loaded from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from service.contract.errors import InvalidModel
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.tiny_models import TINY, VOCABULARY, inputs_of, logits
from worker.checkpoints.loading import count_parameters, load_model
from worker.checkpoints.verification import compare, take_probe

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_loaded_as_it_was_saved_and_reloaded_by_its_stock_class(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    saved = checkpoints.write(tmp_path / "model", name)
    loaded = load_model(tmp_path / "model", device=CPU)
    assert type(loaded.model) is type(saved)
    assert loaded.family.model_type == saved.config.model_type
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert torch.equal(logits(loaded.model), logits(saved))
    verified = compare(tmp_path / "model", take_probe(loaded, {}, inputs_of(loaded.model)))
    assert verified.loader == type(saved).__name__
    assert verified.max_abs_logit_difference <= verified.tolerance


def test_shared_parameters_are_counted_once() -> None:
    tied, untied = TINY["t5"](), TINY["t5_gated"]()
    assert count_parameters(tied) == sum(tensor.numel() for tensor in set(tied.parameters()))
    assert count_parameters(untied) - count_parameters(tied) > 32 * VOCABULARY


def lacking_weight(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


CONTRADICTIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "lacking": (lacking_weight, r"needs weights that the checkpoint lacks: model.layers.1.mlp.up_proj"),
    "shapes": (
        lambda path: change_config(path, intermediate_size=56),
        "do not have the shapes",
    ),
    "values": (lambda path: change_config(path, hidden_size="wide"), "has 'wide' in 'hidden_size'"),
    "other values": (lambda path: change_config(path, initializer_range="wide"), "cannot be loaded"),
    "tokenizer": (lambda path: (path / "tokenizer.json").write_text("{"), "the tokenizer cannot"),  # type: ignore[dict-item]
}


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


def store_as_float32(directory: Path, *names: str) -> None:
    """Store some tensors in float32, with values that bfloat16 cannot hold."""
    tensors = load_file(directory / "model.safetensors")
    tensors |= {name: torch.full((16,) if name.endswith("inv_freq") else tensors[name].shape, 1.001) for name in names}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("tensor", "rounded"),
    [("model.norm.weight", ["float32"]), ("model.layers.0.self_attn.rotary_emb.inv_freq", [])],
)
def test_dtypes_that_the_model_rounds_are_known(tmp_path: Path, tensor: str, rounded: list[str]) -> None:
    checkpoints.write(tmp_path / "model", dtype=torch.bfloat16)
    assert load_model(tmp_path / "model", device=CPU).rounded == []
    store_as_float32(tmp_path / "model", tensor)
    loaded = load_model(tmp_path / "model", device=CPU)
    assert loaded.dtype is torch.bfloat16
    assert loaded.rounded == rounded
