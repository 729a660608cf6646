"""The tensors of a GGUF file: those of a checkpoint, as an architecture of llama.cpp reads them.

Architectures whose rotary positions turn neighbouring dimensions need the rows of queries and keys in another order.
Zero neurons, which add nothing, make the rows of the down projections as long as quantisations need them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor

from worker.exports.source import ExportSource, LayerSizes

INTERLEAVED = ("llama", "deci")  # architectures whose rotary positions turn dimensions 2 i and 2 i + 1
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file; `load` reads and converts it, in float32."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def padded(width: int, block: int) -> int:
    """The width with the zero neurons that make it a multiple of the block."""
    return -(-width // block) * block


def gguf_tensors(source: ExportSource, architecture: str, block: int) -> Iterator[GgufTensor]:
    """Every tensor of the file. Feed-forward widths are padded to multiples of `block`."""
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(kind, len(source.layers))
    for name in sorted(source.files):
        if name == "lm_head.weight" and source.config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        shape = _shape(source, name, block)
        load = partial(_loaded, source, name, architecture, shape)
        yield GgufTensor(f"{names.get_name(stem)}.{suffix}", shape, load)


def _shape(source: ExportSource, name: str, block: int) -> tuple[int, ...]:
    """The shape of a tensor with the zero neurons."""
    shape, match = source.shape(name), LAYER.fullmatch(name)
    if match is None:
        return shape
    width = padded(source.layers[int(match[1])].width, block)
    if match[2].startswith(("mlp.gate_proj.", "mlp.up_proj.")):
        return (width, *shape[1:])
    return (shape[0], width) if match[2] == "mlp.down_proj.weight" else shape


def _loaded(source: ExportSource, name: str, architecture: str, shape: tuple[int, ...]) -> Tensor:
    tensor, match = source.tensor(name), LAYER.fullmatch(name)
    if match is not None and architecture in INTERLEAVED:
        tensor = _turned(tensor, match[2], source.layers[int(match[1])])
    if tensor.shape == shape:
        return tensor.contiguous()
    whole = torch.zeros(shape)
    whole[tuple(slice(size) for size in tensor.shape)] = tensor
    return whole


def _turned(tensor: Tensor, path: str, sizes: LayerSizes) -> Tensor:
    """The rows of queries and keys, and their biases, in the order of interleaved rotary positions."""
    for module, heads in (("self_attn.q_proj.", sizes.heads), ("self_attn.k_proj.", sizes.key_value_heads)):
        if path.startswith(module):
            return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor
