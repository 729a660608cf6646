"""The values of quantised weights in float32: one row for each layout of `service.sources.quantised_layouts`.

The libraries of the formats compute them where one installs beside this version of torch.

Shape suffixes: O outputs, I inputs of a linear module, G groups of inputs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert import AutoAWQConverter, FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor

from service.models.quantisation.scheme import Scheme

Parts = Mapping[str, Tensor]  # part of the layout -> tensor
ROW_MAJOR = 0  # `weight_format` of bitsandbytes


def _fp8(parts: Parts, scheme: Scheme) -> Tensor:
    """Value times scale of the tensor, of its row or of its block; the last blocks may be smaller.

    The scale is the number to multiply by also where it is called `weight_scale_inv`, see DeepSeek-V3, arXiv
    2412.19437, section 3.3.
    """
    weight_OI = parts["weight"]
    scale = (parts["weight_scale"] if "weight_scale" in parts else parts["weight_scale_inv"]).float()
    if scale.dim() < 2 or scale.shape in ((1, 1), (len(weight_OI), 1)):
        return weight_OI.float() * scale.reshape(-1, 1)
    assert scheme.block is not None, "the layout refuses other shapes"
    blocks = FP8BlockDequantizer(weight_block_size=scheme.block, dtype=torch.float32)
    dense: Tensor = blocks.process({"module.weight": weight_OI, "module.weight_scale_inv": scale})["module.weight"]
    return dense


def _scaled(parts: Parts, scheme: Scheme) -> Tensor:
    return _decompressed("naive-quantized", parts, scheme)


def _packed(parts: Parts, scheme: Scheme) -> Tensor:
    (rows, words), [outputs, inputs] = parts["weight_packed"].shape, parts["weight_shape"].tolist()
    groups = 1 if scheme.group_size is None else inputs // scheme.group_size
    if (rows, words, groups) != (outputs, -(-inputs * scheme.bits // 32), parts["weight_scale"].shape[-1]):
        raise ValueError(f"their weight_shape is {(outputs, inputs)}")
    return _decompressed("pack-quantized", parts, scheme)


def _decompressed(form: str, parts: Parts, scheme: Scheme) -> Tensor:
    """What the library of compressed-tensors computes, with scales in float32."""
    arguments = QuantizationArgs(
        num_bits=scheme.bits,
        type=scheme.kind,
        symmetric=scheme.symmetric,
        strategy=scheme.strategy,
        group_size=scheme.group_size,
        block_structure=list(scheme.block) if scheme.block else None,
    )
    in_float32 = dict(parts) | {"weight_scale": parts["weight_scale"].float()}
    compressor = BaseCompressor.get_value_from_registry(form)
    dense: Tensor = compressor.decompress(in_float32, QuantizationScheme(targets=["Linear"], weights=arguments))[
        "weight"
    ]
    return dense


def _llm_int8(parts: Parts, scheme: Scheme) -> Tensor:
    """Value times the greatest of its row, over 127: `dequantize_bnb_weight` in `transformers.integrations`."""
    if parts.get("weight_format", torch.tensor(ROW_MAJOR)).item() != ROW_MAJOR:
        raise ValueError("their weight_format is that of a GPU: save the model with bitsandbytes 0.44 or later")
    return parts["weight"].float() * parts["SCB"].float()[:, None] * (1 / 127)


def _of_4_bits(parts: Parts, scheme: Scheme) -> Tensor:
    """Entry of the table times the greatest of its block: QLoRA, arXiv 2305.14314, section 3.

    The greatest of the blocks may be quantised again, less their mean.
    """
    state = _state(parts[f"weight.quant_state.bitsandbytes__{scheme.kind}"])
    packed = parts["weight"].flatten()
    entries = torch.stack((packed >> 4, packed & 15), 1).flatten().int()
    greatest = parts["weight.absmax"]
    if "weight.nested_absmax" in parts:
        nested = parts["weight.nested_quant_map"][greatest.int()]
        greatest = _in_blocks(nested, parts["weight.nested_absmax"], _size(state, "nested_blocksize"))
        greatest = greatest + float(state.get("nested_offset", "nan"))
    dense = _in_blocks(parts["weight.quant_map"][entries], greatest, _size(state, "blocksize"))
    rows, columns = _size(state, "shape", 0), _size(state, "shape", 1)
    if rows * columns != dense.numel():
        raise ValueError(f"the shape in their quant_state is {state['shape']}")
    return dense.reshape(rows, columns)


def _in_blocks(values: Tensor, factors: Tensor, size: int) -> Tensor:
    """Each value times the factor of its block; the last block may be smaller. Raises ValueError for a wrong number."""
    size = min(size, values.numel())
    if factors.numel() != -(-values.numel() // size):
        raise ValueError(f"{factors.numel()} blocks of {size} do not make {values.numel()} values")
    return values.float() * factors.flatten().float().repeat_interleave(size)[: values.numel()]


def _state(text: Tensor) -> dict[str, Any]:
    """What bitsandbytes writes of a weight as JSON. Raises ValueError for something else."""
    try:
        state = json.loads(bytes(text.tolist()))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise ValueError("their quant_state is no object in JSON")
    return state


def _size(state: Mapping[str, Any], field: str, index: int | None = None) -> int:
    """A size in a state, or one of the sizes in a list. Raises ValueError where there is none."""
    value = state.get(field)
    if index is not None:
        value = value[index] if isinstance(value, list) and len(value) == 2 else None
    if type(value) is not int or value <= 0:
        raise ValueError(f"the {field} in their quant_state is {state.get(field)!r}")
    return value


def _gptq(parts: Parts, scheme: Scheme) -> Tensor:
    """(value - zero point) times scale, both of the group of the input: GPTQ, arXiv 2210.17323, as AutoGPTQ stores it.

    The first version of the format stores zero points less one; GPTQModel undoes that in whole words.
    """
    qzeros, scales_GO = parts["qzeros"], parts["scales"].float()
    bits = 32 * qzeros.shape[1] // scales_GO.shape[1]
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    if scheme.zeros_less_one:
        qzeros = qzeros + (1 << shifts).sum(dtype=torch.int32)
    zeros_GO = ((qzeros[:, :, None] >> shifts) & (2**bits - 1)).flatten(1)
    values_IO = ((parts["qweight"][:, None] >> shifts[:, None]) & (2**bits - 1)).flatten(0, 1)
    inputs, groups = len(values_IO), len(scales_GO)
    group_I = parts.get("g_idx", torch.arange(inputs) // (inputs // groups)).long()
    if not ((group_I >= 0) & (group_I < groups)).all():
        raise ValueError(f"their g_idx names other groups than 0 to {groups - 1}")
    dense_IO: Tensor = (values_IO - zeros_GO[group_I]) * scales_GO[group_I]
    return dense_IO.T


def _awq(parts: Parts, scheme: Scheme) -> Tensor:
    """What the library of compressed-tensors makes of AutoAWQ's files, dequantised as one of its own formats."""
    size = len(parts["qweight"]) // len(parts["scales"])
    converted = AutoAWQConverter(group_size=size, ignore=()).process(
        {f"module.{part}": tensor for part, tensor in parts.items()}
    )
    packed = {name.removeprefix("module."): tensor for name, tensor in converted.items()}
    return _packed(packed, replace(scheme, strategy="group", group_size=size, symmetric=False))


VALUES: dict[str, Callable[[Parts, Scheme], Tensor]] = {
    "fp8": _fp8,
    "scaled": _scaled,
    "packed": _packed,
    "llm_int8": _llm_int8,
    "gptq": _gptq,
    "awq": _awq,
    "nf4": _of_4_bits,
    "fp4": _of_4_bits,
}
