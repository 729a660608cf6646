"""The graphs of ONNX files, run in torch: they compute what the model computes, whole and in parts with a cache."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.exports.onnx import DECODERS, ENCODER_DECODERS, ENCODERS
from tests.support.tiny_models import SLIDING, causal, encoder
from tests.worker.checkpoints.model_classes.test_per_layer import unequal
from worker.checkpoints.encoders import outputs_of
from worker.exports.onnx.graphs import PAST, decoder_graph, encoder_decoder_graphs, encoder_graph, key_value_heads

TOKENS = torch.arange(4, 24).view(2, 10)
MASK = torch.ones_like(TOKENS)
MASK[0, :3] = 0  # a prompt that is padded on the left


def present(outputs: tuple[Tensor, ...], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The cache for the next tokens."""
    names = [name for name in inputs if name.startswith("past_key_values.")]
    return dict(zip(names, outputs[1:], strict=True))


def decoder_models(family: str) -> PreTrainedModel:
    return unequal(family)[0]


WINDOWED = {
    "gemma3_text with windows": lambda: causal("gemma3_text", **SLIDING),
    "mistral with a window": lambda: causal("mistral", sliding_window=4),
    "qwen2 with windows": lambda: causal("qwen2", use_sliding_window=True, max_window_layers=1, **SLIDING),
}
MODELS = {family: (lambda family=family: decoder_models(family)) for family in DECODERS} | WINDOWED


@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_computes_texts_whole_and_in_parts(name: str) -> None:
    torch.set_num_threads(1)
    model = MODELS[name]()
    graph = decoder_graph(model)
    with torch.inference_mode():
        expected = model(input_ids=TOKENS, attention_mask=MASK).logits
        empty = {key: value[:, :, :0] for key, value in graph.inputs.items() if key.startswith("past_key_values.")}
        whole, *_ = graph.module(TOKENS, MASK, *empty.values())
        first = graph.module(TOKENS[:, :6], MASK[:, :6], *empty.values())
        parts = [first[0]]
        for position in range(6, 10):
            cache = present(first, graph.inputs)
            first = graph.module(TOKENS[:, position : position + 1], MASK[:, : position + 1], *cache.values())
            parts.append(first[0])
    for found in (whole, torch.cat(parts, dim=1)):
        torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], rtol=0, atol=1e-5)


def test_each_layer_has_the_keys_of_its_own_heads() -> None:
    model, _ = unequal("llama")
    graph = decoder_graph(model)
    assert key_value_heads(model.config) == [1, 2]
    assert graph.inputs["past_key_values.0.key"].shape == (2, 1, PAST, 8)
    assert graph.inputs["past_key_values.1.value"].shape == (2, 2, PAST, 8)
    assert graph.outputs[:3] == ["logits", "present.0.key", "present.0.value"]


@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_has_the_outputs_of_its_model(family: str) -> None:
    torch.set_num_threads(1)
    model, expected = unequal(family)
    graph = encoder_graph(model, None)
    assert graph.outputs == ["logits"]
    inputs = {"input_ids": TOKENS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(TOKENS)}
    with torch.inference_mode():
        [found] = graph.module(*(inputs[name] for name in graph.inputs))
        assert torch.equal(found, model(input_ids=TOKENS, attention_mask=MASK).logits)
    assert found.shape == expected.shape


@pytest.mark.parametrize("family", [*ENCODER_DECODERS, "t5_gated"])
def test_the_two_graphs_of_an_encoder_decoder_compute_its_logits(family: str) -> None:
    torch.set_num_threads(1)
    model, _ = unequal(family)
    answer = torch.arange(4, 12).view(2, 4)
    with torch.inference_mode():
        expected = model(input_ids=TOKENS, attention_mask=MASK, decoder_input_ids=answer).logits
        of_text, of_answer = encoder_decoder_graphs(model)
        [states] = of_text.module(TOKENS, MASK)
        [found] = of_answer.module(answer, states, MASK)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_encoder_without_a_head_has_the_parts_of_its_probe() -> None:
    model = encoder("bert")
    graph = encoder_graph(model, None)
    assert graph.outputs == ["last_hidden_state", "pooler_output"]
    with torch.inference_mode():
        parts = graph.module(*graph.inputs.values())
        assert torch.equal(torch.cat([part.flatten() for part in parts]), outputs_of(model, dict(graph.inputs)))
