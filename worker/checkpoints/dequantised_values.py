"""The values of quantised weights in float32: one row for each layout of `service.sources.quantised_layouts`.

The libraries of the formats compute them where one installs beside this version of torch.

Shape suffixes: O outputs, I inputs of a linear module.
"""

from collections.abc import Callable, Mapping

import torch
from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
from torch import Tensor

from service.families.quantisation import Scheme

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


VALUES: dict[str, Callable[[Parts, Scheme], Tensor]] = {"fp8": _fp8}
