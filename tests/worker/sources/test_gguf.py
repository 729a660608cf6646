"""GGUF files: what they say is restored exactly, or the file is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import TINY, causal, inputs_of
from worker.checkpoints.loading import load_model
from worker.sources.gguf import convert_gguf
from worker.sources.gguf_config import llama3_factors

LONG, SHORT = [1.0, 1.5, 2.5, 4.0], [1.0, 1.1, 1.2, 1.3]
PHI3_ROPE = {"rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "rope_theta": 10_000.0}
SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 500.0,
}
GEMMA3_ROPE = {"full_attention": SCALED, "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}
LINEAR_KEYS = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}

# Name -> (model, further metadata, further tensors).
FILES: dict[str, tuple[Any, dict[str, Any], dict[str, torch.Tensor]]] = {
    "llama": (TINY["llama"], {}, {}),
    "llama with a head": (lambda: causal("llama", tie_word_embeddings=False), {"vocab_size": 128}, {}),
    "llama 3": (
        lambda: causal("llama", rope_parameters=LLAMA3),
        {},
        {"rope_freqs.weight": llama3_factors(500.0, 8, 8.0, 32)},
    ),
    "llama linear": (lambda: causal("llama", rope_parameters=SCALED), LINEAR_KEYS, {}),
    "qwen2": (TINY["qwen2"], {}, {}),
    "qwen2 yarn": (
        lambda: causal("qwen2", rope_parameters=YARN),
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
        {},
    ),
    "qwen3": (TINY["qwen3"], {}, {}),
    "gemma2": (
        lambda: causal("gemma2", query_pre_attn_scalar=8, attn_logit_softcapping=2.0, sliding_window=4),
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 4},
        {},
    ),
    "gemma3": (
        lambda: causal("gemma3_text", query_pre_attn_scalar=8, rope_parameters=GEMMA3_ROPE, num_hidden_layers=6),
        LINEAR_KEYS | {"attention.sliding_window": 4096, "rope.freq_base_swa": 5000.0},
        {},
    ),
    "phi3": (TINY["phi3"], {"rope.scaling.original_context_length": 64}, {}),
    "phi3 with long rope": (
        lambda: causal("phi3", rope_parameters=PHI3_ROPE, original_max_position_embeddings=32),
        {"rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.0954451},
        {"rope_factors_long.weight": torch.tensor(LONG), "rope_factors_short.weight": torch.tensor(SHORT)},
    ),
    "gpt2": (TINY["gpt2"], {}, {}),
}


def converted(directory: Path, name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model of FILES, and the one that is loaded from its file."""
    make, metadata, tensors = FILES[name]
    model = make()
    path = write_gguf(directory / "model.gguf", model, metadata, tensors)
    return model, load_model(convert_gguf(path, directory / "cache"), device=torch.device("cpu")).model


@pytest.mark.parametrize("name", FILES)
def test_a_converted_file_gives_the_logits_of_the_model_it_was_made_from(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    model, again = converted(tmp_path, name)
    for length in (10, 50):  # within and beyond the first length of a long rope
        inputs = torch.arange(4, 4 + 2 * length).view(2, length) % 100 + 4
        with torch.inference_mode():
            torch.testing.assert_close(again(inputs).logits, model(inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({}, {"rope_freqs.weight": torch.tensor([1.0, 1.3, 2.0, 8.0])}, "not those of Llama 3"),
        ({}, {"rope_factors_long.weight": torch.tensor(LONG)}, "the tensor rope_factors_long.weight"),
        ({"rope.scaling.type": "longrope"}, {}, "rotary positions of the type longrope"),
        ({"rope.dimension_count": 4}, {}, "rotary positions in 4 of the 8 dimensions"),
        ({"attention.value_length": 16}, {}, "differ in size"),
        ({"expert_count": 4}, {}, "the metadata expert_count = 4"),
        ({"logit_scale": 0.5}, {}, "the metadata logit_scale = 0.5"),
        ({}, {"blk.0.attn_q.bias": torch.ones(32)}, "the tensor blk.0.attn_q.bias"),
    ],
)
def test_a_file_with_more_than_a_checkpoint_can_hold_is_refused(
    tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = write_gguf(tmp_path / "model.gguf", TINY["llama"](), metadata, tensors)
    with pytest.raises(InvalidModel, match=message) as caught:
        convert_gguf(path, tmp_path / "cache")
    assert caught.value.param == "model.uri"
    assert "give the checkpoint it was made from" in caught.value.message
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"feed_forward_length": 40}, "do not have the shapes"),
        ({"attention.head_count": 0}, "cannot be converted"),
        ({"attention.head_count": [4, 2]}, "cannot be converted"),
    ],
)
def test_a_file_whose_metadata_does_not_fit_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = write_gguf(tmp_path / "model.gguf", TINY["llama"](), metadata)
    with pytest.raises(InvalidModel, match=message):
        convert_gguf(path, tmp_path / "cache")


def test_metadata_that_says_nothing_is_accepted(tmp_path: Path) -> None:
    ones = {"rope_freqs.weight": torch.ones(4)}
    neutral = {"expert_count": 0, "rope.scaling.finetuned": True, "rope.scaling.type": "none", "attention.causal": True}
    path = write_gguf(tmp_path / "model.gguf", TINY["llama"](), neutral, ones)
    again = load_model(convert_gguf(path, tmp_path / "cache"), device=torch.device("cpu")).model
    model = TINY["llama"]()
    with torch.inference_mode():
        torch.testing.assert_close(again(**inputs_of(model)).logits, model(**inputs_of(model)).logits)
