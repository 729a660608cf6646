"""Writes tiny quantised models by hand, as each format is specified, with the weights that they stand for.

Nothing here shares code with what is tested: values are packed with loops over numpy, and the weights that they stand
for come from the values before they are packed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.tiny_models import TINY
from worker.checkpoints.dtypes import cast_weights

Parts = dict[str, Tensor]  # what follows the name of the module -> tensor
LINEAR = r".*(proj|dense|query|key|value|c_attn|c_fc)\.weight"


class Stored(NamedTuple):
    """A quantised weight, and the weight in float32 that it stands for."""

    parts: Parts
    dense: Tensor


@dataclass(frozen=True)
class Format:
    """A way to store a quantised model."""

    settings: Mapping[str, Any] | None  # `quantization_config`
    store: Callable[[Tensor], Stored]
    name: str  # as reports call it


def write(directory: Path, form: Format, name: str = "llama", dtype: str | None = "bfloat16") -> PreTrainedModel:
    """Save a model of TINY with its linear layers quantised, and a tokenizer; the model in float32 that it stands for.

    The other tensors are stored in bfloat16. `dtype` is what config.json says; weights are rounded to it, if it is
    float16 or float32, else to bfloat16.
    """
    checkpoints.write(directory, name, torch.bfloat16)
    model = TINY[name]()
    cast_weights(model, torch.bfloat16)
    rounded_to = {"float16": torch.float16, "float32": torch.float32}.get(str(dtype), torch.bfloat16)
    tensors: Parts = {}
    for path, tensor in load_file(directory / "model.safetensors").items():
        if not is_linear(path):
            tensors[path] = tensor
            continue
        parts, dense = form.store(tensor.float())
        module = path.removesuffix(".weight")
        tensors |= {f"{module}.{part}": value.clone() for part, value in parts.items()}
        model.get_parameter(path).data = dense
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    change_config(directory, dtype=dtype, **({} if form.settings is None else {"quantization_config": form.settings}))
    cast_weights(model, rounded_to)
    cast_weights(model, torch.float32)
    return model


def is_linear(path: str) -> bool:
    """Whether a tensor of a tiny Llama or GPT-2 is the weight of a linear layer within a layer of the model."""
    return ".layers." in path and path.endswith("proj.weight")


# --- FP8 -----------------------------------------------------------------------------------------------------------


def _blocks(shape: tuple[int, ...], size: tuple[int, int]) -> list[tuple[int, int, slice, slice]]:
    """(row of blocks, column of blocks, rows, columns) of every block; the last ones may be smaller."""
    rows = [slice(start, start + size[0]) for start in range(0, shape[0], size[0])]
    columns = [slice(start, start + size[1]) for start in range(0, shape[1], size[1])]
    return [(i, j, row, column) for i, row in enumerate(rows) for j, column in enumerate(columns)]


def fp8(size: tuple[int, int] | None, part: str, shape: Callable[[Tensor], tuple[int, ...]], **further: Tensor) -> Any:
    """Stores float8 values with a scale for each block of a size; `shape`: weight -> shape of the scales' tensor."""

    def store(weight: Tensor) -> Stored:
        blocks = _blocks(tuple(weight.shape), size or tuple(weight.shape))  # type: ignore[arg-type]
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
        lambda weight: fp8((1, weight.shape[1]), "weight_scale", lambda weight: (-1, 1))(weight),
        "FP8",
    ),
    "fp8 without a method": Format(None, fp8(None, "weight_scale", lambda weight: (1,)), "FP8"),
}
