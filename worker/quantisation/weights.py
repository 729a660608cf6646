"""A quantised weight matrix, and the rounding of one without calibration.

Shape suffixes: O outputs, I inputs of a linear module, G groups of inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight matrix as whole numbers times the scale of their group."""

    value_OI: Tensor  # int8
    scale_OG: Tensor  # in the dtype in which it is stored

    @property
    def dense_OI(self) -> Tensor:
        """The weights that it stands for, float32."""
        return (in_groups(self.value_OI.float(), self.scale_OG) * self.scale_OG.float().unsqueeze(2)).flatten(1)


def in_groups(weight_OI: Tensor, scale_OG: Tensor) -> Tensor:
    """The weights (O, G, I / G)."""
    grouped: Tensor = weight_OI.unflatten(1, (scale_OG.shape[1], -1))
    return grouped


def least_and_most(bits: int) -> tuple[int, int]:
    """The range of whole numbers of so many bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def scale_of(weight_OI: Tensor, bits: int, group_size: int | None, dtype: torch.dtype) -> Tensor:
    """The scale of each group (O, G): its greatest absolute weight over half of the numbers between least and most.

    `calculate_qparams` of compressed-tensors and `choose_qparams_affine` of torchao compute the same. A group of zeros
    has the scale 1.
    """
    grouped = weight_OI.float().unflatten(1, (-1, group_size or weight_OI.shape[1]))
    greatest_OG = grouped.abs().amax(2)
    scale_OG = (greatest_OG / ((2**bits - 1) / 2)).to(dtype)
    return torch.where(scale_OG == 0, torch.ones_like(scale_OG), scale_OG)


def rounded(weight_OI: Tensor, scale_OG: Tensor, bits: int) -> QuantisedWeight:
    """Every weight rounded to the nearest number that its group can hold."""
    value = (in_groups(weight_OI.float(), scale_OG) / scale_OG.float().unsqueeze(2)).round()
    return QuantisedWeight(value.clamp(*least_and_most(bits)).flatten(1).to(torch.int8), scale_OG)
