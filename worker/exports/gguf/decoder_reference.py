"""Computes a decoder from the files that were written for another runtime, and from nothing else.

It follows the definition of a decoder with rotary positions, RMS norms and gated feed-forward modules, and is written
apart from what writes the files. The names are those of GGUF.

Shape suffixes: T positions, D hidden size, H heads, S dimensions of a head, F rotary frequencies.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class DecoderFile(Protocol):
    """The metadata and the tensors of a file."""

    @property
    def turns_halves(self) -> bool:
        """Whether rotary positions turn the dimensions i and i + S / 2, and not neighbouring ones."""

    def number(self, key: str, layer: int | None = None) -> Any:
        """A number of the architecture, that of a layer where each has its own; None where there is none."""

    def tensor(self, name: str) -> Tensor | None:
        """A tensor in float32; None where there is none."""

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a layer by their names in it."""


def logits(model: DecoderFile, token_T: Tensor) -> Tensor:
    """The logits of a row of tokens, (T, V)."""
    embedding = model.tensor("token_embd.weight")
    assert embedding is not None
    hidden_TD = embedding[token_T]
    for index in range(model.number("block_count")):
        layer = model.layer(index)
        hidden_TD = hidden_TD + _attention(model, layer, index, _normed(model, hidden_TD, layer["attn_norm.weight"]))
        hidden_TD = hidden_TD + _feed_forward(layer, _normed(model, hidden_TD, layer["ffn_norm.weight"]))
    norm, head = model.tensor("output_norm.weight"), model.tensor("output.weight")
    assert norm is not None
    return _normed(model, hidden_TD, norm) @ (embedding if head is None else head).T


def _normed(model: DecoderFile, hidden_TD: Tensor, weight_D: Tensor) -> Tensor:
    return functional.rms_norm(hidden_TD, (len(weight_D),), weight_D, model.number("attention.layer_norm_rms_epsilon"))


def _linear(layer: Mapping[str, Tensor], name: str, input_TD: Tensor) -> Tensor:
    return functional.linear(input_TD, layer[f"{name}.weight"], layer.get(f"{name}.bias"))


def _feed_forward(layer: Mapping[str, Tensor], input_TD: Tensor) -> Tensor:
    gate = functional.silu(_linear(layer, "ffn_gate", input_TD))
    return _linear(layer, "ffn_down", gate * _linear(layer, "ffn_up", input_TD))


def _attention(model: DecoderFile, layer: Mapping[str, Tensor], index: int, input_TD: Tensor) -> Tensor:
    heads, groups = model.number("attention.head_count", index), model.number("attention.head_count_kv", index)
    size = model.number("attention.key_length")
    if "attn_qkv.weight" in layer:
        rows = _linear(layer, "attn_qkv", input_TD).split([heads * size, groups * size, groups * size], dim=1)
    else:
        rows = tuple(_linear(layer, f"attn_{name}", input_TD) for name in "qkv")
    query_THS, key_THS, value_THS = (each.unflatten(1, (-1, size)) for each in rows)
    if "attn_q_norm.weight" in layer:
        query_THS = _normed(model, query_THS, layer["attn_q_norm.weight"])
        key_THS = _normed(model, key_THS, layer["attn_k_norm.weight"])
    query_THS, key_THS = _turned(model, query_THS), _turned(model, key_THS)
    query_1HTS, key_1HTS, value_1HTS = (each.transpose(0, 1)[None] for each in (query_THS, key_THS, value_THS))
    mixed = functional.scaled_dot_product_attention(query_1HTS, key_1HTS, value_1HTS, is_causal=True, enable_gqa=True)
    return _linear(layer, "attn_output", mixed[0].transpose(0, 1).flatten(1))


def _turned(model: DecoderFile, states_THS: Tensor) -> Tensor:
    """The states at their rotary positions: as complex numbers, multiplied by e^(i t f)."""
    size = states_THS.shape[2]
    frequency_F = model.number("rope.freq_base") ** -(torch.arange(0, size, 2) / size)
    if (factors := model.tensor("rope_freqs.weight")) is not None:
        frequency_F = frequency_F / factors
    frequency_F = frequency_F / (model.number("rope.scaling.factor") or 1.0)
    angle_TF = torch.arange(states_THS.shape[0]).outer(frequency_F)
    turn_TF = torch.polar(torch.ones_like(angle_TF), angle_TF)[:, None]
    if model.turns_halves:
        first, second = states_THS.chunk(2, dim=2)
        turned = torch.complex(first, second) * turn_TF
        return torch.cat([turned.real, turned.imag], dim=2)
    pairs = torch.view_as_complex(states_THS.unflatten(2, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn_TF).flatten(2)
