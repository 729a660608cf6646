"""Weights in the forms of bitsandbytes, stored by hand."""

import json
from typing import Any

import torch
from torch import Tensor

from tests.support.quantised_models.stored import Format, Parts, Stored

BITS_AND_BYTES = {"quant_method": "bitsandbytes", "load_in_8bit": False, "load_in_4bit": True}
# NormalFloat of 4 bits: QLoRA, arXiv 2305.14314, appendix E.
NF4 = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
# A sign, then 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4: as `get_4bit_type` of bitsandbytes has them.
FP4 = [sign * value for sign in (1, -1) for value in (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)]
BLOCK, NESTED_BLOCK = 64, 16


def llm_int8(module: str, weight: Tensor) -> Stored:
    greatest = weight.abs().amax(1)
    values = (weight * 127 / greatest[:, None]).round().to(torch.int8)
    dense = values.float() * greatest[:, None] * (1 / 127)
    return Stored({"weight": values, "SCB": greatest, "weight_format": torch.tensor(0, dtype=torch.uint8)}, dense)


def of_4_bits(kind: str, table: list[float], *, nested: bool = False) -> Any:
    """Stores entries of a table, two in a byte, with the greatest of each block; `nested`: which is quantised again."""

    def store(module: str, weight: Tensor) -> Stored:
        blocks = weight.reshape(-1, BLOCK)
        greatest = blocks.abs().amax(1)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": BLOCK, "dtype": "float32", "shape": [*weight.shape]}
        parts: Parts = {"weight.quant_map": torch.tensor(table), "weight.absmax": greatest}
        if nested:
            levels, mean = torch.linspace(-1, 1, 256), greatest.mean().item()
            rest = greatest - mean
            widest = torch.stack([rest[start : start + NESTED_BLOCK].abs().max() for start in _starts(len(rest))])
            scale = torch.stack([widest[index // NESTED_BLOCK] for index in range(len(rest))])
            nearest = (rest[:, None] / scale[:, None] - levels).abs().argmin(1)
            greatest = torch.stack([levels[level] for level in nearest]) * scale + mean
            state |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": mean}
            parts |= {"weight.absmax": nearest.to(torch.uint8), "weight.nested_absmax": widest}
            parts |= {"weight.nested_quant_map": levels}
        entries = (blocks[:, :, None] / greatest[:, None, None] - torch.tensor(table)).abs().argmin(2)
        dense = torch.tensor([[table[entry] for entry in row] for row in entries.tolist()]) * greatest[:, None]
        flat = entries.flatten().tolist()
        pairs = [16 * first + second for first, second in zip(flat[::2], flat[1::2], strict=True)]
        parts["weight"] = torch.tensor(pairs, dtype=torch.uint8)[:, None]
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        )
        return Stored(parts, dense.reshape(weight.shape))

    return store


def _starts(count: int) -> range:
    return range(0, count, NESTED_BLOCK)


FORMATS: dict[str, Format] = {
    "llm.int8": Format({"load_in_8bit": True}, llm_int8, "bitsandbytes LLM.int8"),
    "nf4": Format(BITS_AND_BYTES | {"bnb_4bit_quant_type": "nf4"}, of_4_bits("nf4", NF4), "bitsandbytes NF4"),
    "nf4 nested": Format(
        BITS_AND_BYTES | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "uint8"},
        of_4_bits("nf4", NF4, nested=True),
        "bitsandbytes NF4",
    ),
    "fp4": Format(BITS_AND_BYTES, of_4_bits("fp4", FP4), "bitsandbytes FP4"),
}
