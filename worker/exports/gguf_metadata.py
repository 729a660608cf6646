"""The metadata of a GGUF file: the sizes of the model and its positions."""

from typing import Any

from gguf import GGUFWriter

from worker.exports.gguf_tensors import padded
from worker.exports.source import ExportSource


def add_sizes(writer: GGUFWriter, source: ExportSource, block: int) -> None:
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
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))


def _one_or_each(numbers: list[int]) -> Any:
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _context_length(config: Any) -> int:
    """The most tokens: no more than the sliding window, where llama.cpp has none for the family."""
    return int(config.max_position_embeddings)
