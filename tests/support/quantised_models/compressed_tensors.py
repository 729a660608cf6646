"""Weights in the forms of compressed-tensors, stored by hand."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.quantised_models.packing import blocks_of, packed
from tests.support.quantised_models.stored import Format, Parts, Stored


@dataclass(frozen=True)
class Compressed:
    """How compressed-tensors stores the weights of a group of modules."""

    form: str
    bits: int = 8
    kind: str = "int"
    size: tuple[int, int] | None = None  # of what has a scale of its own; None: the tensor, (1, 0): a row
    symmetric: bool = True
    is_block: bool = False

    @property
    def strategy(self) -> str:
        if self.is_block:
            return "block"
        return "tensor" if self.size is None else "group" if self.size[1] else "channel"

    @property
    def weights(self) -> dict[str, Any]:
        """`weights` of the group."""
        size = list(self.size) if self.size else None
        group_size = self.size[1] if self.size and self.strategy == "group" else None
        fields = {"num_bits": self.bits, "type": self.kind, "symmetric": self.symmetric, "strategy": self.strategy}
        return fields | {"group_size": group_size} | ({"block_structure": size} if self.is_block else {})

    def store(self, weight: Tensor) -> Stored:
        rows, columns = weight.shape
        height, width = self.size or (rows, columns)
        blocks = blocks_of((rows, columns), (height, width or columns))
        values, dense = torch.zeros(rows, columns), torch.zeros(rows, columns)
        scale = torch.zeros(blocks[-1][0] + 1, blocks[-1][1] + 1)
        zero = torch.zeros_like(scale)
        for i, j, row, column in blocks:
            part = weight[row, column]
            if self.kind == "float":
                scale[i, j] = part.abs().max() / 448
                values[row, column] = (part / scale[i, j]).to(torch.float8_e4m3fn).float()
            else:
                scale[i, j], zero[i, j] = _range(part, self.bits, self.symmetric)
                values[row, column] = (part / scale[i, j] + zero[i, j]).round().clamp(*_ends(self.bits))
            dense[row, column] = (values[row, column] - zero[i, j]) * scale[i, j]
        return Stored(self._parts(values, scale, zero), dense)

    def _parts(self, values: Tensor, scale: Tensor, zero: Tensor) -> Parts:
        is_tensor, is_packed = self.strategy == "tensor", self.form == "pack-quantized"
        parts: Parts = {"weight_scale": scale.reshape(1) if is_tensor else scale}
        if not self.symmetric:
            zeros = packed(zero.T, self.bits).T if is_packed else zero.to(torch.int8)
            parts["weight_zero_point"] = zeros.reshape(1) if is_tensor else zeros.contiguous()
        if is_packed:
            shape = torch.tensor(values.shape)
            return parts | {"weight_packed": packed(values, self.bits), "weight_shape": shape}
        return parts | {"weight": values.to(torch.int8 if self.kind == "int" else torch.float8_e4m3fn)}


def compressed(*groups: Compressed, targets: tuple[str, ...] = ("Linear",), static: bool = False) -> Format:
    """A format of compressed-tensors. With several groups each has a target, a regular expression for modules."""
    inputs = {"num_bits": 8, "type": "int", "strategy": "tensor", "dynamic": not static}
    config_groups = {
        f"group_{number}": {
            "targets": [target],
            "weights": group.weights,
            "input_activations": inputs,
            "output_activations": None,
        }
        | ({"format": group.form} if len(groups) > 1 else {})
        for number, (target, group) in enumerate(zip(targets, groups, strict=True))
    }
    forms = list(dict.fromkeys(group.form for group in groups))
    settings = {
        "quant_method": "compressed-tensors",
        "format": forms[0] if len(groups) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
    }

    def store(module: str, weight: Tensor) -> Stored:
        [group] = [
            group
            for target, group in zip(targets, groups, strict=True)
            if target == "Linear" or re.match(target[3:], module)
        ]
        stored = group.store(weight)
        return Stored(stored.parts | ({"input_scale": torch.tensor([0.25])} if static else {}), stored.dense)

    return Format(settings, store, f"compressed-tensors {' and '.join(forms)}")


def _ends(bits: int) -> tuple[int, int]:
    """The least and the greatest signed integer."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _range(part: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """(scale, zero point) of values that are stored in signed integers."""
    low, high = part.min().clamp(max=0), part.max().clamp(min=0)
    least, greatest = _ends(bits)
    if symmetric:
        return part.abs().max() / greatest, torch.tensor(0.0)
    scale = (high - low) / (greatest - least)
    return scale, (least - low / scale).round()


FORMATS: dict[str, Format] = {
    "packed 4 bits in groups": compressed(Compressed("pack-quantized", 4, size=(1, 16))),
    "packed 4 bits with zero points": compressed(Compressed("pack-quantized", 4, size=(1, 16), symmetric=False)),
    "packed 8 bits in rows with zero points": compressed(Compressed("pack-quantized", 8, size=(1, 0), symmetric=False)),
    "packed 2 bits in groups": compressed(Compressed("pack-quantized", 2, size=(1, 8))),
    "int8 in rows": compressed(Compressed("int-quantized", size=(1, 0))),
    "int8 tensor with zero point": compressed(Compressed("int-quantized", symmetric=False), static=True),
    "float8 in rows": compressed(Compressed("float-quantized", kind="float", size=(1, 0))),
    "float8 tensor": compressed(Compressed("float-quantized", kind="float"), static=True),
    "float8 blocks that do not divide": compressed(
        Compressed("float-quantized", kind="float", size=(20, 32), is_block=True)
    ),
    "naive int8 in groups": compressed(Compressed("naive-quantized", size=(1, 16))),
    "naive float8 tensor": compressed(Compressed("naive-quantized", kind="float")),
    "two schemes": compressed(
        Compressed("pack-quantized", 4, size=(1, 16)),
        Compressed("float-quantized", kind="float", size=(1, 0)),
        targets=("re:.*mlp", "re:.*self_attn"),
    ),
}
