"""The values of quantised weights in float32: one row for each layout of `service.sources.quantised_layouts`.

The libraries of the formats compute them where one installs beside this version of torch.

Shape suffixes: O outputs, I inputs of a linear module.
"""

from collections.abc import Callable, Mapping

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor

from service.families.quantisation_scheme import Scheme

Parts = Mapping[str, Tensor]  # part of the layout -> tensor


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


VALUES: dict[str, Callable[[Parts, Scheme], Tensor]] = {"fp8": _fp8, "scaled": _scaled, "packed": _packed}
