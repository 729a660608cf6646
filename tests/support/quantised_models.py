"""Writes tiny quantised models by hand, as each format is specified, with the weights that they stand for.

Nothing here shares code with what is tested: values are packed with loops over numpy, and the weights that they stand
for come from the values before they are packed.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.request.task import ModelSource
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.tiny_models import TINY
from worker.checkpoints.dtypes import cast_weights
from worker.sources.fetching import FetchedModel, fetch_model

Parts = dict[str, Tensor]  # what follows the name of the module -> tensor


class Stored(NamedTuple):
    """A quantised weight, and the weight in float32 that it stands for."""

    parts: Parts
    dense: Tensor


@dataclass(frozen=True)
class Format:
    """A way to store a quantised model."""

    settings: Mapping[str, Any] | None  # `quantization_config`
    store: Callable[[str, Tensor], Stored]  # of the weight of a module with this name
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
        module = path.removesuffix(".weight")
        as_linear = tensor.T if name == "gpt2" else tensor
        parts, dense = form.store(module, as_linear.float())
        tensors |= {
            f"{module}.{part}": value.clone(memory_format=torch.contiguous_format) for part, value in parts.items()
        }
        model.get_parameter(path).data = dense.T if name == "gpt2" else dense
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    change_config(directory, dtype=dtype, **({} if form.settings is None else {"quantization_config": form.settings}))
    cast_weights(model, rounded_to)
    cast_weights(model, torch.float32)
    return model


def fetch(directory: Path) -> FetchedModel:
    """The model of a directory, dequantised beside it."""
    scratch = directory.parent / "scratch"
    return fetch_model(ModelSource(uri=directory.as_uri()), scratch=scratch, cache=scratch / "cache")


def changing_tensors(change: Callable[[Parts], object]) -> Callable[[Path], None]:
    """Changes the tensors of the files."""

    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})

    return edit


def is_linear(path: str) -> bool:
    """Whether a tensor of a tiny Llama or GPT-2 is the weight of a linear layer within a layer of the model."""
    return re.fullmatch(r".*\.(layers|h)\.\d\..*(proj|c_attn|c_fc)\.weight", path) is not None


# --- FP8 -----------------------------------------------------------------------------------------------------------


def _blocks(shape: tuple[int, ...], size: tuple[int, int]) -> list[tuple[int, int, slice, slice]]:
    """(row of blocks, column of blocks, rows, columns) of every block; the last ones may be smaller."""
    rows = [slice(start, start + size[0]) for start in range(0, shape[0], size[0])]
    columns = [slice(start, start + size[1]) for start in range(0, shape[1], size[1])]
    return [(i, j, row, column) for i, row in enumerate(rows) for j, column in enumerate(columns)]


def fp8(size: tuple[int, int] | None, part: str, shape: Callable[[Tensor], tuple[int, ...]], **further: Tensor) -> Any:
    """Stores float8 values with a scale for each block of a size; `shape`: weight -> shape of the scales' tensor."""

    def store(module: str, weight: Tensor) -> Stored:
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
        lambda module, weight: fp8((1, weight.shape[1]), "weight_scale", lambda weight: (-1, 1))(module, weight),
        "FP8",
    ),
    "fp8 without a method": Format(None, fp8(None, "weight_scale", lambda weight: (1,)), "FP8"),
}


# --- compressed-tensors --------------------------------------------------------------------------------------------


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
        blocks = _blocks((rows, columns), (height, width or columns))
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
            zeros = _packed(zero.T, self.bits).T if is_packed else zero.to(torch.int8)
            parts["weight_zero_point"] = zeros.reshape(1) if is_tensor else zeros.contiguous()
        if is_packed:
            shape = torch.tensor(values.shape)
            return parts | {"weight_packed": _packed(values, self.bits), "weight_shape": shape}
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


def _packed(values: Tensor, bits: int) -> Tensor:
    """Signed integers, each plus half the range, in words of 32 bits along the rows, the first in the lowest bits."""
    words = torch.zeros(values.shape[0], -(-values.shape[1] * bits // 32), dtype=torch.int64)
    for column in range(values.shape[1]):
        word, place = divmod(column * bits, 32)
        words[:, word] |= (values[:, column].long() + 2 ** (bits - 1)) << place
    return words.to(torch.uint32).view(torch.int32)


FORMATS |= {
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


# --- bitsandbytes --------------------------------------------------------------------------------------------------

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


FORMATS |= {
    "llm.int8": Format({"load_in_8bit": True}, llm_int8, "bitsandbytes LLM.int8"),
    "nf4": Format(BITS_AND_BYTES | {"bnb_4bit_quant_type": "nf4"}, of_4_bits("nf4", NF4), "bitsandbytes NF4"),
    "nf4 nested": Format(
        BITS_AND_BYTES | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "uint8"},
        of_4_bits("nf4", NF4, nested=True),
        "bitsandbytes NF4",
    ),
    "fp4": Format(BITS_AND_BYTES, of_4_bits("fp4", FP4), "bitsandbytes FP4"),
}


# --- GPTQ ----------------------------------------------------------------------------------------------------------


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
            "qweight": _words(values.T, bits).T,
            "qzeros": _words(zeros - (1 if first_version else 0), bits),
            "scales": scales.half(),
        }
        return Stored(parts | ({"g_idx": group.int()} if index else {}), dense.T)

    return store


def _words(values: Tensor, bits: int) -> Tensor:
    """Unsigned integers in words of 32 bits along the rows, the first in the lowest bits."""
    return _packed(values - 2 ** (bits - 1), bits)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
FORMATS |= {
    "gptq": Format(GPTQ, gptq(4, 16), "GPTQ with 4 bits"),
    "gptq in one group": Format(GPTQ | {"bits": 8, "group_size": -1}, gptq(8, None, index=False), "GPTQ with 8 bits"),
    "gptq with 2 bits": Format(GPTQ | {"bits": 2}, gptq(2, 16, index=False), "GPTQ with 2 bits"),
    "gptq reordered": Format(GPTQ | {"desc_act": True}, gptq(4, 16, reorder=True), "GPTQ with 4 bits"),
    "gptq of the second version": Format(
        GPTQ | {"checkpoint_format": "gptq_v2"}, gptq(4, 16, first_version=False), "GPTQ with 4 bits"
    ),
}


# --- AWQ -----------------------------------------------------------------------------------------------------------

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the columns in a word, from the lowest bits


def awq(size: int) -> Any:
    """Stores unsigned integers of 4 bits as AutoAWQ does for its matrix products (`gemm`)."""

    def store(module: str, weight: Tensor) -> Stored:
        parts, dense = gptq(4, size, first_version=False, index=False)(module, weight)
        values, zeros = (_unordered(parts[name], is_rows) for name, is_rows in (("qweight", True), ("qzeros", False)))
        ordered = {"qweight": _ordered(values), "qzeros": _ordered(zeros)}
        return Stored(ordered | {"scales": parts["scales"]}, dense)

    return store


def _unordered(words: Tensor, is_rows: bool) -> Tensor:
    """The integers of 4 bits in words along the rows or the columns."""
    words = words.T if is_rows else words
    integers = [[(word >> (4 * place)) & 15 for word in row for place in range(8)] for row in words.tolist()]
    return torch.tensor(integers).T if is_rows else torch.tensor(integers)


def _ordered(values: Tensor) -> Tensor:
    columns = [8 * word + column for word in range(values.shape[1] // 8) for column in AWQ_ORDER]
    return _words(values[:, columns], 4)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
FORMATS |= {"awq": Format(AWQ, awq(16), "AWQ with 4 bits")}
