"""A model is tied where its files say so, and stays as it is when it is converted and saved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.options import Layout
from tests.support import checkpoints
from tests.support.tiny_models import TINY, VOCABULARY, bart, causal, encoder_decoder, logits
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import count_parameters, load_model
from worker.checkpoints.saving import save_model
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units.groups import Kept, Site
from worker.slimming.units.locating import locate

CPU = torch.device("cpu")
# Tiny model -> its own head or second embedding, which a config that says "tied" does not hide.
OWN = {
    "llama": "lm_head.weight",
    "qwen2": "lm_head.weight",
    "gemma2": "lm_head.weight",
    "gpt2": "lm_head.weight",
    "opt": "lm_head.weight",
    "t5": "lm_head.weight",
    "mt5": "lm_head.weight",
    "umt5": "lm_head.weight",
    "bart": "lm_head.weight",
    "pegasus": "lm_head.weight",
    "marian": "lm_head.weight",
}


def write_own_head(directory: Path, name: str = "llama") -> Tensor:
    """Save a tiny model with a head of its own under a config that says "tied"; the head."""
    checkpoints.write(directory, name)
    tensors = load_file(directory / "model.safetensors")
    torch.manual_seed(1)
    head = torch.randn(VOCABULARY, 32)
    save_file(tensors | {"lm_head.weight": head}, directory / "model.safetensors", {"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return head


def kept_of(model: PreTrainedModel, units: list[str], layout: Layout) -> dict[Site, Tensor]:
    """Half of the units, and of the second layer three quarters where layers may differ."""
    groups = locate(model, ARCHITECTURES[model.config.model_type], units)
    share = {True: 0.75, False: 0.5}
    return {
        group.site: torch.arange(int(group.count * share[layout is Layout.per_layer and group.site.layer == 1]))
        for group in groups
    }


def hand_masked(model: PreTrainedModel, kept: Kept) -> Tensor:
    """The logits of a gated decoder whose neurons outside `kept` are silenced."""
    handles = []
    for site, kept_K in kept.items():

        def silence(module: Any, args: tuple[Tensor], kept_K: Tensor = kept_K) -> tuple[Tensor]:
            return (args[0] * torch.zeros(args[0].shape[-1]).index_fill_(0, kept_K, 1.0),)

        down = model.get_submodule(f"model.layers.{site.layer}.mlp.down_proj")
        handles.append(down.register_forward_pre_hook(silence))
    answer = logits(model)
    for handle in handles:
        handle.remove()
    return answer


@pytest.mark.parametrize("name", OWN)
def test_a_head_of_its_own_is_kept_whatever_the_flag_says(tmp_path: Path, name: str) -> None:
    head = write_own_head(tmp_path / "model", name)
    loaded = load_model(tmp_path / "model", device=CPU)
    assert torch.equal(loaded.model.get_output_embeddings().weight, head)
    before = logits(loaded.model)
    save_model(loaded, tmp_path / "again")
    assert torch.equal(load_file(tmp_path / "again/model.safetensors")[OWN[name]], head)
    assert json.loads((tmp_path / "again/config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(logits(load_model(tmp_path / "again", device=CPU).model), before)


@pytest.mark.parametrize("layout", Layout)
def test_a_cut_keeps_the_head(tmp_path: Path, layout: Layout) -> None:
    write_own_head(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device=CPU)
    kept = kept_of(loaded.model, ["ffn"], layout)
    expected = hand_masked(loaded.model, kept)
    save_model(make_slim(loaded, kept, layout), tmp_path / "slim")
    slim = load_model(tmp_path / "slim", device=CPU).model
    torch.testing.assert_close(logits(slim), expected)
    assert slim.config.tie_word_embeddings is False


def test_a_llama_that_becomes_a_mistral_keeps_its_head(tmp_path: Path) -> None:
    causal("llama", num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True).save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    tied = load_model(tmp_path, device=CPU)
    for site in (kept := kept_of(tied.model, ["heads"], Layout.uniform)):
        kept[site] = torch.arange(3)
    assert count_parameters(make_slim(tied, kept, Layout.uniform).model) == untied_count(tmp_path, kept) - 128 * 32


def untied_count(directory: Path, kept: Kept) -> int:
    """The parameters of the Mistral that the same cut makes of the model with a head of its own."""
    tensors = load_file(directory / "model.safetensors")
    head = torch.randn(128, 32)
    save_file(tensors | {"lm_head.weight": head}, directory / "model.safetensors", {"format": "pt"})
    slim = make_slim(load_model(directory, device=CPU), kept, Layout.uniform).model
    assert type(slim).__name__ == "MistralForCausalLM"
    assert torch.equal(slim.get_output_embeddings().weight, head)
    assert slim.config.tie_word_embeddings is False
    return count_parameters(slim)


def test_a_repeated_head_that_is_equal_stays_tied(tmp_path: Path) -> None:
    model = causal("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(twice, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_model(tmp_path, device=CPU)
    assert count_parameters(loaded.model) == count_parameters(model)
    assert loaded.model.config.tie_word_embeddings is True


def test_an_unscaled_t5_with_a_head_of_its_own_says_so(tmp_path: Path) -> None:
    model = encoder_decoder("t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(128, 32))
    model.save_pretrained(tmp_path / "model")
    checkpoints.tokenizer("encoder_decoder").save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device=CPU)
    save_model(loaded, tmp_path / "again")
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert torch.equal(logits(load_model(tmp_path / "again", device=CPU).model), logits(model))


@pytest.mark.parametrize("own_head", [False, True])
def test_a_marian_with_two_vocabularies_ties_its_head_to_the_decoder(own_head: bool, tmp_path: Path) -> None:
    model = bart("marian", share_encoder_decoder_embeddings=False, decoder_vocab_size=96)
    if own_head:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(96, 32))
    model.save_pretrained(tmp_path / "model")
    checkpoints.tokenizer("encoder_decoder").save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model", device=CPU)
    assert (loaded.model.get_parameter("lm_head.weight") is embedding_of(loaded.model)) is not own_head
    assert torch.equal(logits(loaded.model), logits(model))
    kept = kept_of(loaded.model, ["ffn"], Layout.uniform)
    save_model(make_slim(loaded, kept, Layout.uniform), tmp_path / "slim")
    for directory in (tmp_path / "model", tmp_path / "slim"):
        again = load_model(directory, device=CPU).model
        assert again.config.tie_word_embeddings is not own_head
        assert (again.get_parameter("lm_head.weight") is embedding_of(again)) is not own_head


def embedding_of(model: PreTrainedModel) -> Tensor:
    return model.get_parameter("model.decoder.embed_tokens.weight")


def test_converted_models_share_what_the_model_shares(tmp_path: Path) -> None:
    for name in ("t5", "bart", "gemma2", "gpt2", "marian"):
        checkpoints.write(tmp_path / name, name)
        loaded = load_model(tmp_path / name, device=CPU)
        dense = count_parameters(loaded.model)
        kept = {
            site: torch.arange(kept_K.numel())
            for site, kept_K in kept_of(TINY[name](), ["ffn"], Layout.per_layer).items()
        }
        slim = make_slim(loaded, kept, Layout.per_layer).model
        assert slim.get_output_embeddings().weight is slim.get_input_embeddings().weight
        assert count_parameters(slim) < dense
