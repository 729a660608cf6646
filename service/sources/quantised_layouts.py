"""Which tensors stand in place of a quantised weight, and which shape the weight has: one row for each layout.

`worker.sources.dequantised_values` has one more row for each, with the formula of the values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from service.models.quantisation.scheme import Scheme
from service.sources.safetensors_header import TensorShape

Parts = Mapping[str, TensorShape]  # last part of the name -> tensor
Shape = tuple[int, ...]
MAX_STATE_BYTES = 4096  # of the JSON that bitsandbytes writes of a weight


@dataclass(frozen=True)
class Layout:
    """The tensors of a quantised weight, by what follows the name of its module."""

    values: str
    dtypes: tuple[str, ...]  # of the values
    needed: tuple[tuple[str, ...], ...]  # of each group of names exactly one
    optional: tuple[str, ...]
    # (out, in) of the weight, or (number of values,); raises ValueError where the tensors do not fit each other.
    shape: Callable[[Parts, Scheme], Shape]
    as_linear: bool = False  # whether it is stored as (out, in) also where the class of the model holds (in, out)

    @property
    def names(self) -> set[str]:
        """The names of all tensors that the layout can have."""
        return {self.values, *self.optional, *(name for group in self.needed for name in group)}


def _fp8(parts: Parts, scheme: Scheme) -> Shape:
    shape = _matrix(parts, "weight")
    name = "weight_scale" if "weight_scale" in parts else "weight_scale_inv"
    rows, columns = shape
    allowed = [(), (1,), (1, 1), (rows,), (rows, 1)]
    if scheme.block is not None:
        allowed.append((ceil(rows / scheme.block[0]), ceil(columns / scheme.block[1])))
    _check_float(parts, name, "F8_E8M0")
    _check_shape(parts, name, *allowed)
    return shape


def _scaled(parts: Parts, scheme: Scheme) -> Shape:
    shape = _matrix(parts, "weight")
    if parts["weight"].dtype != {"int": "I8", "float": "F8_E4M3"}[scheme.kind]:
        raise ValueError(f"its weight is {parts['weight'].dtype}, and its scheme says {scheme.kind}")
    grid = _check_scales(parts, shape, scheme)
    if _has_zero_points(parts, scheme):
        _check_dtype(parts, "weight_zero_point", "I8")
        _check_shape(parts, "weight_zero_point", *grid)
    return shape


def _packed(parts: Parts, scheme: Scheme) -> Shape:
    rows, words = _matrix(parts, "weight_packed")
    columns = words * 32 // scheme.bits
    if scheme.group_size is not None:
        groups = _matrix(parts, "weight_scale")[1]
        columns = groups * scheme.group_size
        if ceil(columns * scheme.bits / 32) != words:
            raise ValueError(f"its weight_packed has {words} columns, and its scales are for {columns} inputs")
    [*_, (_, groups)] = _check_scales(parts, (rows, columns), scheme)
    _check_dtype(parts, "weight_shape", "I64", "I32")
    _check_shape(parts, "weight_shape", (2,))
    if _has_zero_points(parts, scheme):
        _check_dtype(parts, "weight_zero_point", "I32")
        _check_shape(parts, "weight_zero_point", (ceil(rows * scheme.bits / 32), groups))
    return rows, columns


def _llm_int8(parts: Parts, scheme: Scheme) -> Shape:
    rows, columns = _matrix(parts, "weight")
    _check_float(parts, "SCB")
    _check_shape(parts, "SCB", (rows,))
    if "weight_format" in parts:
        _check_shape(parts, "weight_format", (1,), ())
    return rows, columns


def _bits_and_bytes_4(parts: Parts, scheme: Scheme) -> Shape:
    """The sizes are in the values of the tensor `quant_state`."""
    rows, columns = _matrix(parts, "weight")
    if columns != 1:
        raise ValueError(f"its weight has the shape {(rows, columns)}, where {(rows, 1)} belongs")
    _check_float(parts, "weight.absmax", "U8")
    _check_float(parts, "weight.quant_map")
    _check_shape(parts, "weight.quant_map", (16,))
    state = parts[f"weight.quant_state.bitsandbytes__{scheme.kind}"]
    if state.dtype != "U8" or len(state.shape) != 1 or state.count > MAX_STATE_BYTES:
        raise ValueError(f"its quant_state is {state.dtype} and has the shape {state.shape}")
    nested = [name for name in NESTED if name in parts]
    if len(nested) != (len(NESTED) if parts["weight.absmax"].dtype == "U8" else 0):
        raise ValueError(
            f"its weight.absmax is {parts['weight.absmax'].dtype}, and it has {len(nested)} nested tensors"
        )
    for name in nested:
        _check_float(parts, name)
    if nested:
        _check_shape(parts, "weight.nested_quant_map", (256,))
    return (2 * rows,)


def _gptq(parts: Parts, scheme: Scheme) -> Shape:
    """Columns of the tensors are outputs; `bits` of a module may differ from those of the others."""
    words, outputs = _matrix(parts, "qweight")
    groups, zero_words = _matrix(parts, "qzeros")
    bits = 32 * zero_words // outputs
    inputs = words * 32 // bits if bits in (2, 4, 8) else 0
    if bits not in (2, 4, 8) or zero_words * 32 != outputs * bits or inputs % groups:
        raise ValueError(f"its qweight has the shape {(words, outputs)}, and its qzeros {(groups, zero_words)}")
    _check_dtype(parts, "qzeros", "I32")
    _check_float(parts, "scales")
    _check_shape(parts, "scales", (groups, outputs))
    if "g_idx" in parts:
        _check_dtype(parts, "g_idx", "I32", "I64")
        _check_shape(parts, "g_idx", (inputs,))
    return outputs, inputs


def _awq(parts: Parts, scheme: Scheme) -> Shape:
    inputs, words = _matrix(parts, "qweight")
    groups, outputs = _matrix(parts, "scales")
    if words * 8 != outputs or inputs % groups:
        raise ValueError(f"its qweight has the shape {(inputs, words)}, and its scales {(groups, outputs)}")
    _check_float(parts, "scales")
    _check_dtype(parts, "qzeros", "I32")
    _check_shape(parts, "qzeros", (groups, words))
    return outputs, inputs


def _check_scales(parts: Parts, shape: tuple[int, int], scheme: Scheme) -> list[Shape]:
    """The shapes that the scales of a weight may have. Raises ValueError where they have another one."""
    rows, columns = shape
    if scheme.strategy == "group" and columns % (scheme.group_size or 1):
        raise ValueError(f"its {columns} inputs are no multiple of the group_size {scheme.group_size}")
    height, width = scheme.block or (1, scheme.group_size or columns)
    grid: list[Shape] = [(ceil(rows / height), ceil(columns / width))]
    if scheme.strategy == "tensor":
        grid = [(), (1,), (1, 1)]
    _check_float(parts, "weight_scale")
    _check_shape(parts, "weight_scale", *grid)
    return grid


def _has_zero_points(parts: Parts, scheme: Scheme) -> bool:
    """Whether the weight has zero points. Raises ValueError where its scheme says otherwise."""
    is_there = "weight_zero_point" in parts
    if is_there is scheme.symmetric:
        raise ValueError(f"it has {'a' if is_there else 'no'} weight_zero_point, and symmetric is {scheme.symmetric}")
    return is_there


def _matrix(parts: Parts, name: str) -> tuple[int, int]:
    """The sizes of a matrix."""
    match parts[name].shape:
        case (rows, columns) if rows > 0 and columns > 0:
            return rows, columns
    raise ValueError(f"its {name} has the shape {parts[name].shape}, which is no matrix")


def _check_float(parts: Parts, name: str, *further: str) -> None:
    _check_dtype(parts, name, "F32", "F16", "BF16", *further)


def _check_dtype(parts: Parts, name: str, *allowed: str) -> None:
    if parts[name].dtype not in allowed:
        raise ValueError(f"its {name} is {parts[name].dtype}")


def _check_shape(parts: Parts, name: str, *allowed: Shape) -> None:
    if parts[name].shape not in allowed:
        raise ValueError(f"its {name} has the shape {parts[name].shape}, where {allowed[-1]} belongs")


NESTED = ("weight.nested_absmax", "weight.nested_quant_map")


def _of_4_bits(kind: str) -> Layout:
    """The layout of bitsandbytes with 4 bits."""
    needed = ("weight.absmax", "weight.quant_map", f"weight.quant_state.bitsandbytes__{kind}")
    return Layout("weight", ("U8",), tuple((name,) for name in needed), NESTED, _bits_and_bytes_4, as_linear=True)


LAYOUTS: dict[str, Layout] = {
    "fp8": Layout("weight", ("F8_E4M3",), (("weight_scale", "weight_scale_inv"),), (), _fp8),
    "llm_int8": Layout("weight", ("I8",), (("SCB",),), ("weight_format",), _llm_int8, as_linear=True),
    "gptq": Layout("qweight", ("I32",), (("qzeros",), ("scales",)), ("g_idx",), _gptq, as_linear=True),
    "awq": Layout("qweight", ("I32",), (("qzeros",), ("scales",)), (), _awq, as_linear=True),
    "nf4": _of_4_bits("nf4"),
    "fp4": _of_4_bits("fp4"),
    "scaled": Layout("weight", ("I8", "F8_E4M3"), (("weight_scale",),), ("weight_zero_point",), _scaled),
    "packed": Layout(
        "weight_packed", ("I32",), (("weight_scale",), ("weight_shape",)), ("weight_zero_point",), _packed
    ),
}
