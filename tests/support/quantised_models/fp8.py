"""Weights in FP8, stored by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.quantised_models.packing import blocks_of
from tests.support.quantised_models.stored import Format, Stored


def fp8(size: tuple[int, int] | None, part: str, shape: Callable[[Tensor], tuple[int, ...]], **further: Tensor) -> Any:
    """Stores float8 values with a scale for each block of a size; `shape`: weight -> shape of the scales' tensor."""

    def store(module: str, weight: Tensor) -> Stored:
        blocks = blocks_of(tuple(weight.shape), size or tuple(weight.shape))  # type: ignore[arg-type]
        scale = torch.zeros(blocks[-1][0] + 1, blocks[-1][1] + 1)
        values, dense = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn), torch.zeros(weight.shape)
        for i, j, rows, columns in blocks:
            scale[i, j] = weight[rows, columns].abs().max() / 448
            values[rows, columns] = (weight[rows, columns] / scale[i, j]).to(torch.float8_e4m3fn)
            dense[rows, columns] = values[rows, columns].float() * scale[i, j]
        return Stored({"weight": values, part: scale.reshape(shape(weight))} | further, dense)

    return store


def _two(weight: Tensor) -> tuple[int, ...]:
    return (-1, -(-weight.shape[1] // 32))


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
FORMATS: dict[str, Format] = {
    "fp8 blocks": Format(
        FP8 | {"weight_block_size": [16, 16]},
        fp8((16, 16), "weight_scale_inv", lambda weight: (-1, weight.shape[1] // 16)),
        "FP8",
    ),
    "fp8 blocks that do not divide": Format(
        FP8 | {"weight_block_size": [20, 32]}, fp8((20, 32), "weight_scale_inv", _two), "FP8"
    ),
    "fp8 tensor": Format(
        FP8 | {"activation_scheme": "static", "weight_block_size": None},
        fp8(None, "weight_scale_inv", lambda weight: (), activation_scale=torch.tensor(0.5)),
        "FP8",
    ),
    "fp8 row": Format(
        {"quant_method": "fbgemm_fp8"},
        lambda module, weight: fp8((1, weight.shape[1]), "weight_scale", lambda weight: (-1, 1))(module, weight),
        "FP8",
    ),
    "fp8 without a method": Format(None, fp8(None, "weight_scale", lambda weight: (1,)), "FP8"),
}
