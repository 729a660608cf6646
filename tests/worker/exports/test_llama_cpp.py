"""GGUF files of slim models in llama.cpp itself: the logits and the tokens are those of the checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from service.contract.options import Layout
from tests.support.exports import CYLLAMA, slim_source, with_packages
from tests.support.quick_verification import verifying_here
from tests.support.tiny_models import causal
from tests.worker.sources.test_gguf import LLAMA3
from worker.exports import decoder_reference, gguf_export, gguf_reference
from worker.exports.questions import questions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BIASES = {"attention_bias": True, "mlp_bias": True}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
BOTH = ["ffn", "heads"]
UNEQUAL = Layout.per_layer


def gemma(family: str, **settings: Any) -> PreTrainedModel:
    """A Gemma whose scale is not that of its heads."""
    return causal(family, **{"query_pre_attn_scalar": 12, "num_hidden_layers": 8, "sliding_window": 4} | settings)


def deep(family: str, **settings: Any) -> PreTrainedModel:
    """A model with a layer for each of the widths that `slim_source` gives, whose widths are no multiples of 32."""
    return causal(family, **{"num_hidden_layers": 3, "num_key_value_heads": 4, "num_attention_heads": 8} | settings)


# Name -> (a function that makes the model, its units, the layout, the layers that go, the architecture of the file).
FILES: dict[str, tuple[Any, list[str], Layout, list[int], str]] = {
    "llama": (lambda: causal("llama"), BOTH, Layout.uniform, [0], "llama"),
    "llama 3": (lambda: causal("llama", rope_parameters=LLAMA3), ["ffn"], Layout.uniform, [], "llama"),
    "linear": (lambda: causal("llama", rope_parameters=LINEAR), ["ffn"], Layout.uniform, [], "llama"),
    "biases": (lambda: causal("llama", **BIASES), ["ffn"], Layout.uniform, [], "llama"),
    "tied": (lambda: causal("llama", tie_word_embeddings=True), ["ffn"], Layout.uniform, [], "llama"),
    "mistral": (lambda: causal("mistral", sliding_window=32), BOTH, Layout.uniform, [], "llama"),
    "qwen2": (lambda: causal("qwen2"), ["ffn"], Layout.uniform, [0], "qwen2"),
    "qwen2 with fewer heads": (lambda: causal("qwen2"), BOTH, Layout.uniform, [], "deci"),
    "qwen3": (lambda: causal("qwen3"), BOTH, Layout.uniform, [0], "qwen3"),
    "gemma2": (lambda: gemma("gemma2"), BOTH, Layout.uniform, [], "gemma2"),
    "gemma3": (lambda: gemma("gemma3_text"), BOTH, Layout.uniform, [], "gemma3"),
    "unequal llama": (lambda: deep("llama"), BOTH, UNEQUAL, [], "deci"),
    "unequal llama 3": (lambda: deep("llama", rope_parameters=LLAMA3), BOTH, UNEQUAL, [], "deci"),
    "unequal linear": (lambda: deep("llama", rope_parameters=LINEAR), ["ffn"], UNEQUAL, [], "deci"),
    "unequal biases": (lambda: deep("llama", head_dim=4, **BIASES), ["ffn"], UNEQUAL, [], "deci"),
    "unequal mistral": (lambda: deep("mistral"), BOTH, UNEQUAL, [], "deci"),
    "unequal qwen2": (lambda: deep("qwen2"), BOTH, UNEQUAL, [], "deci"),
    "unequal qwen3": (lambda: deep("qwen3", tie_word_embeddings=True), BOTH, UNEQUAL, [], "openelm"),
}


@pytest.fixture(autouse=True)
def with_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with_packages(monkeypatch, *CYLLAMA)
    with verifying_here():
        yield


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_computes_what_the_checkpoint_computes(name: str, tmp_path: Path) -> None:
    make, units, layout, gone, architecture = FILES[name]
    source = slim_source(tmp_path, make(), units, layout, gone=gone, formats=["gguf"], gguf_types=["f32"])
    (tmp_path / "model-gguf").mkdir()
    export = gguf_export.export(source, tmp_path / "model-gguf")
    assert export.architecture == architecture
    assert export.checked_by == "llama.cpp (cyllama 0.2.18)"
    if architecture in gguf_reference.ARCHITECTURES:
        questions = questions_of(source)
        file = gguf_reference.GgufModel(tmp_path / export.files[0].name)
        found = [decoder_reference.logits(file, tokens) for tokens in questions.tokens]
        assert questions.difference(found) <= 1e-4 * questions.greatest
        assert not torch.equal(found[0], questions.logits[0])
