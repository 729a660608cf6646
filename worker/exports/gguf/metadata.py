"""The metadata of a GGUF file: the sizes of the model, its positions and its windows."""

from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, RopeScalingType

from worker.exports.gguf.tensors import GEMMAS, padded
from worker.exports.source import ExportSource


def add_sizes(writer: GGUFWriter, source: ExportSource, architecture: str, block: int) -> None:
    """Add the sizes of the model; of each layer, where they differ."""
    config, layers = source.config, source.layers
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(layers))
    writer.add_vocab_size(config.vocab_size)
    writer.add_feed_forward_length(_one_or_each([padded(layer.width, block) for layer in layers]))
    writer.add_head_count(_one_or_each([layer.heads for layer in layers]))
    writer.add_head_count_kv(_one_or_each([layer.key_value_heads for layer in layers]))
    writer.add_key_length(source.head_size)
    writer.add_value_length(source.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(source.head_size)
    rope = config.rope_parameters
    _add_rope(writer, rope.get("full_attention", rope))
    if architecture in GEMMAS:
        _add_gemma(writer, config)


def _add_rope(writer: GGUFWriter, rope: Mapping[str, Any]) -> None:
    """Add the base of the rotary frequencies and their linear scaling; the factors of Llama 3 are a tensor."""
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _add_gemma(writer: GGUFWriter, config: Any) -> None:
    """Add the window, the layers that have it, and the caps of the logits."""
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if "sliding_attention" in config.rope_parameters:
        writer.add_rope_freq_base_swa(float(config.rope_parameters["sliding_attention"]["rope_theta"]))
    if config.attn_logit_softcapping is not None:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _one_or_each(numbers: list[int]) -> Any:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _context_length(config: Any) -> int:
    """The most tokens: no more than the sliding window of a family for which llama.cpp has none."""
    window = getattr(config, "sliding_window", None) if config.model_type not in ("gemma2", "gemma3_text") else None
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))
