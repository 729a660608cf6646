"""Weights in GPTQ, stored by hand."""

from typing import Any

import torch
from torch import Tensor

from tests.support.quantised_models.packing import packed_unsigned
from tests.support.quantised_models.stored import Format, Parts, Stored


def gptq(bits: int, size: int | None, *, reorder: bool = False, first_version: bool = True, index: bool = True) -> Any:
    """Stores unsigned integers with a scale and a zero point for each group of inputs, in columns of outputs.

    `reorder`: inputs are in groups by chance, as by `desc_act`.
    """

    def store(module: str, weight: Tensor) -> Stored:
        outputs, inputs = weight.shape
        group = torch.arange(inputs) // (size or inputs)
        if reorder:
            group = group[torch.randperm(inputs, generator=torch.Generator().manual_seed(0))]
        groups = int(group.max()) + 1
        scales, zeros = torch.zeros(groups, outputs), torch.zeros(groups, outputs)
        values, dense = torch.zeros(inputs, outputs), torch.zeros(inputs, outputs)
        for g in range(groups):
            part = weight[:, group == g]
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[g] = ((high - low) / (2**bits - 1)).half().float()
            zeros[g] = (-low / scales[g]).round().clamp(1, 2**bits - 1)
            values[group == g] = (part.T / scales[g] + zeros[g]).round().clamp(0, 2**bits - 1)
            dense[group == g] = (values[group == g] - zeros[g]) * scales[g]
        parts: Parts = {
            "qweight": packed_unsigned(values.T, bits).T,
            "qzeros": packed_unsigned(zeros - (1 if first_version else 0), bits),
            "scales": scales.half(),
        }
        return Stored(parts | ({"g_idx": group.int()} if index else {}), dense.T)

    return store


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
FORMATS: dict[str, Format] = {
    "gptq": Format(GPTQ, gptq(4, 16), "GPTQ with 4 bits"),
    "gptq in one group": Format(GPTQ | {"bits": 8, "group_size": -1}, gptq(8, None, index=False), "GPTQ with 8 bits"),
    "gptq with 2 bits": Format(GPTQ | {"bits": 2}, gptq(2, 16, index=False), "GPTQ with 2 bits"),
    "gptq reordered": Format(GPTQ | {"desc_act": True}, gptq(4, 16, reorder=True), "GPTQ with 4 bits"),
    "gptq of the second version": Format(
        GPTQ | {"checkpoint_format": "gptq_v2"}, gptq(4, 16, first_version=False), "GPTQ with 4 bits"
    ),
}
