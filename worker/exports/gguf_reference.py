"""Computes a GGUF file of the architectures `deci` and `openelm` from the file alone.

It follows the definition of a decoder with rotary positions, RMS norms and gated feed-forward modules, and is written
apart from what writes the files.

Shape suffixes: T positions, D hidden size, H heads, S dimensions of a head, F rotary frequencies.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor
from torch.nn import functional

ARCHITECTURES = ("deci", "openelm")  # those that transformers does not read


class GgufModel:
    """The metadata and the tensors of a file."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.architecture = str(reader.fields["general.architecture"].contents())
        self._metadata = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def number(self, key: str, layer: int | None = None, default: Any = None) -> Any:
        """A number of the architecture, that of a layer where each has its own."""
        found = self._metadata.get(f"{self.architecture}.{key}", default)
        return found[layer] if isinstance(found, list) and layer is not None else found

    def tensor(self, name: str) -> Tensor | None:
        """A tensor in float32; None where there is none."""
        found = self._tensors.get(name)
        return None if found is None else torch.tensor(dequantize(found.data, found.tensor_type)).float()

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a layer by their names in it."""
        start = f"blk.{index}."
        names = [name for name in self._tensors if name.startswith(start)]
        found = {name.removeprefix(start): self.tensor(name) for name in names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def is_only_reader(path: Path) -> bool:
    """Whether nothing else in this package reads the architecture of the file."""
    return GgufModel(path).architecture in ARCHITECTURES


def logits(path: Path, token_T: Tensor) -> Tensor:
    """The logits of a row of tokens, (T, V)."""
    model = GgufModel(path)
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


def _normed(model: GgufModel, hidden_TD: Tensor, weight_D: Tensor) -> Tensor:
    return functional.rms_norm(hidden_TD, (len(weight_D),), weight_D, model.number("attention.layer_norm_rms_epsilon"))


def _linear(layer: Mapping[str, Tensor], name: str, input_TD: Tensor) -> Tensor:
    return functional.linear(input_TD, layer[f"{name}.weight"], layer.get(f"{name}.bias"))


def _feed_forward(layer: Mapping[str, Tensor], input_TD: Tensor) -> Tensor:
    gate = functional.silu(_linear(layer, "ffn_gate", input_TD))
    return _linear(layer, "ffn_down", gate * _linear(layer, "ffn_up", input_TD))


def _attention(model: GgufModel, layer: Mapping[str, Tensor], index: int, input_TD: Tensor) -> Tensor:
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
    turned = [_turned(model, each).transpose(0, 1)[None] for each in (query_THS, key_THS)]
    mixed = functional.scaled_dot_product_attention(
        *turned, value_THS.transpose(0, 1)[None], is_causal=True, enable_gqa=True
    )
    return _linear(layer, "attn_output", mixed[0].transpose(0, 1).flatten(1))


def _turned(model: GgufModel, states_THS: Tensor) -> Tensor:
    """The states at their rotary positions: as complex numbers, multiplied by e^(i t f)."""
    size = states_THS.shape[2]
    frequency_F = model.number("rope.freq_base") ** -(torch.arange(0, size, 2) / size)
    if (factors := model.tensor("rope_freqs.weight")) is not None:
        frequency_F = frequency_F / factors
    frequency_F = frequency_F / (model.number("rope.scaling.factor") or 1.0)
    angle_TF = torch.arange(states_THS.shape[0]).outer(frequency_F)
    turn_TF = torch.polar(torch.ones_like(angle_TF), angle_TF)[:, None]
    if model.architecture == "openelm":  # the dimensions i and i + S / 2 belong together
        first, second = states_THS.chunk(2, dim=2)
        turned = torch.complex(first, second) * turn_TF
        return torch.cat([turned.real, turned.imag], dim=2)
    pairs = torch.view_as_complex(states_THS.unflatten(2, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn_TF).flatten(2)
