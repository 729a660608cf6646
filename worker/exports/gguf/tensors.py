"""The tensors of a GGUF file: those of a checkpoint, as an architecture of llama.cpp reads them.

Zero neurons, which add nothing, make the rows of the down projections as long as quantisations need them.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from service.models.families.runtimes.layer_patterns import LAYERS_OF_27B
from worker.exports.source import ExportSource, LayerSizes

INTERLEAVED = ("llama", "deci")  # architectures whose rotary positions turn dimensions 2 i and 2 i + 1
JOINED = ("openelm",)  # architectures with one matrix for queries, keys and values
GEMMAS = ("gemma2", "gemma3")  # whose norms multiply by 1 + w, in llama.cpp by w
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
QUERIES, KEYS, VALUES = (f"self_attn.{name}_proj" for name in "qkv")
HEAD = "lm_head.weight"


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
        if name == HEAD and source.config.tie_word_embeddings:
            continue
        if architecture in JOINED and f".{QUERIES}." in name:
            yield _joined(source, name)
        elif architecture not in JOINED or not any(f".{module}." in name for module in (KEYS, VALUES)):
            stem, _, suffix = name.rpartition(".")
            shape = _shape(source, name, block)
            load = partial(_loaded, source, name, architecture, shape)
            yield GgufTensor(f"{names.get_name(stem)}.{suffix}", shape, load)
    if source.config.rope_parameters.get("rope_type") == "llama3":
        factors = rope_factors(source)
        yield GgufTensor("rope_freqs.weight", tuple(factors.shape), lambda: factors)


def rope_factors(source: ExportSource) -> Tensor:
    """By what each rotary frequency is divided, as transformers computes it for Llama 3."""
    theta, size = source.config.rope_parameters["rope_theta"], source.head_size
    plain = theta ** -(torch.arange(0, size, 2).double() / size)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](source.config, torch.device("cpu"))
    factors: Tensor = (plain / scaled.double()).float()
    return factors


def _joined(source: ExportSource, queries: str) -> GgufTensor:
    """The matrix of queries, keys and values of a layer."""
    names = [queries.replace(QUERIES, module) for module in (QUERIES, KEYS, VALUES)]
    shapes = [source.shape(name) for name in names]
    match = LAYER.fullmatch(queries)
    assert match is not None
    shape = (sum(rows for rows, *_ in shapes), *shapes[0][1:])
    load = partial(_concatenated, source, names)
    return GgufTensor(f"blk.{match[1]}.attn_qkv.weight", shape, load)


def _concatenated(source: ExportSource, names: list[str]) -> Tensor:
    return torch.cat([source.tensor(name) for name in names])


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
    if architecture in GEMMAS:
        tensor = tensor + 1 if name.endswith("norm.weight") else tensor
        tensor = tensor * _query_scale(source) if _scales(name, architecture) else tensor
    if tensor.shape == shape:
        return tensor.contiguous()
    whole = torch.zeros(shape)
    whole[tuple(slice(size) for size in tensor.shape)] = tensor
    return whole


def _turned(tensor: Tensor, path: str, sizes: LayerSizes) -> Tensor:
    """The rows of queries and keys, and their biases, in the order of interleaved rotary positions."""
    for module, heads in ((QUERIES, sizes.heads), (KEYS, sizes.key_value_heads)):
        if path.startswith(f"{module}."):
            return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _scales(name: str, architecture: str) -> bool:
    """Whether the products of queries and keys of a Gemma are proportional to the tensor."""
    return name.endswith(f"{QUERIES}.weight" if architecture == "gemma2" else "self_attn.q_norm.weight")


def _query_scale(source: ExportSource) -> float:
    """What queries are multiplied by, so that the products have the scale of `query_pre_attn_scalar`.

    llama.cpp computes its scale from the size of a head, and where the number of layers is that of the model with 27
    billion parameters from the hidden size and the number of heads.
    """
    config, [sizes, *_] = source.config, source.layers
    is_27b = len(source.layers) == LAYERS_OF_27B[config.model_type]
    taken = config.hidden_size // sizes.heads if is_27b else source.head_size
    return math.sqrt(taken / config.query_pre_attn_scalar)
