"""The groups of units of a real model: the rows of `architectures` resolved to its modules.

A group is the set of units that compete for one width: the neurons of one layer, say. Every unit of it owns a slab of
each of some parameters; to remove the unit is to remove its slabs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Attention, FeedForward, Stack


class UnitUnavailable(ValueError):
    """The family's stock config cannot hold fewer units of this kind."""


class Site(NamedTuple):
    """Names a group. `str(site)` is the key of its tensor in files: "decoder.3.ffn".

    `unit` is finer than the API's where units of one kind compete apart: "cross_heads" beside "heads".
    """

    stack: str
    layer: int
    unit: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.layer}.{self.unit}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """The site of which `key` is the string form."""
        stack, layer, unit = key.split(".")
        return cls(stack, int(layer), unit)


class ParameterSlice(NamedTuple):
    """A unit's share of a parameter: `size` neighbouring indices along `dim`, unit after unit from `start` on."""

    parameter: str
    dim: int
    size: int
    start: int = 0


@dataclass(frozen=True)
class Group:
    """The units of one site, each of which can be removed alone. Paths are absolute in the model.

    `slabs` begin with the weight that reads (`ffn`, heads, value dimensions) or writes (query dimensions) the watched
    activation. Groups that share `fields` keep as many units each, in a checkpoint that stock transformers loads.
    """

    site: Site
    kind: str  # the unit as the API names it
    count: int  # units
    parameters: int  # weights and biases that leave with one unit
    slabs: tuple[ParameterSlice, ...]
    watched: str  # the module that shows what the units do
    port: Literal["input", "output", "residual"]  # residual: what a layer adds to its input
    size: int  # channels of a unit at the port
    fields: tuple[tuple[str, int], ...]  # config field, and how much of it a kept unit stands for
    rows: int = 1  # the units form so many rows, each of which keeps as many
    tie: str = ""  # groups of one tie keep the same indices
    level: str = ""  # groups of one level keep as many units in every layout
    allowed: tuple[int, ...] = ()  # counts that the config can hold; empty: all


def locate(model: nn.Module, architecture: Architecture, units: Sequence[str]) -> list[Group]:
    """The groups of `units` in `model`, in the order of its layers. Raises UnitUnavailable."""
    return [
        group
        for stack in architecture.stacks
        for layer in range(num_layers(model, stack))
        for unit in units
        for group in UNITS[unit](model, stack, layer)
    ]


def num_layers(model: nn.Module, stack: Stack) -> int:
    """Layers in the stack."""
    return len(layers_of(model, stack))


def layers_of(model: nn.Module, stack: Stack) -> nn.ModuleList:
    """The stack's layers."""
    layers = model.get_submodule(stack.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def _config(model: nn.Module) -> Any:
    return model.config


def weights_UF(group: Group, parameters: Callable[[str], Tensor]) -> tuple[Tensor, ...]:
    """What belongs to each unit of the matrices that `parameters` finds by name, in the order of the slabs."""
    if group.port == "residual":
        return tuple(parameters(slab.parameter).reshape(1, -1) for slab in group.slabs)
    matrices = ((slab, parameters(slab.parameter)) for slab in group.slabs)
    return tuple(
        matrix.movedim(slab.dim, 0)[slab.start : slab.start + group.count * slab.size].reshape(group.count, -1)
        for slab, matrix in matrices
        if matrix.dim() > 1
    )


# --- feed-forward neurons ------------------------------------------------------------------------------------------


def _neurons(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    row, block = stack.feed_forward, f"{stack.layers}.{layer}"
    reading, writing = (0, 1) if row.transposed else (1, 0)
    contract = f"{block}.{row.contract}"
    count = model.get_parameter(f"{contract}.weight").shape[reading]
    slabs = [ParameterSlice(f"{contract}.weight", reading, 1)]
    for path in _expand(row, model.config):
        for half in range(2 if row.fused else 1):
            slabs += _rows(model, f"{block}.{path}", writing, 1, start=half * count)
    return [
        Group(
            site=Site(stack.name, layer, "ffn"),
            kind="ffn",
            count=count,
            parameters=_parameters(model, slabs),
            slabs=tuple(slabs),
            watched=contract,
            port="input",
            size=1,
            fields=((row.width, 1),),
        )
    ]


def _expand(row: FeedForward, config: Any) -> tuple[str, ...]:
    return row.expand_gated if row.expand_gated and config.is_gated_act else row.expand


def _rows(model: nn.Module, path: str, dim: int, size: int, start: int = 0) -> list[ParameterSlice]:
    """The slabs of units that are outputs of a linear module: of its weight, and of its bias if it has one."""
    slabs = [ParameterSlice(f"{path}.weight", dim, size, start)]
    if model.get_submodule(path).bias is not None:
        slabs.append(ParameterSlice(f"{path}.bias", 0, size, start))
    return slabs


def _parameters(model: nn.Module, slabs: Sequence[ParameterSlice]) -> int:
    parameters = ((slab, model.get_parameter(slab.parameter)) for slab in slabs)
    return sum(parameter.numel() // parameter.shape[slab.dim] * slab.size for slab, parameter in parameters)


# --- attention -----------------------------------------------------------------------------------------------------


def _heads(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    return [_head_group(model, stack, layer, row) for row in _attention(stack)]


def _attention(stack: Stack) -> tuple[Attention, ...]:
    if not stack.attention:
        raise UnitUnavailable("a stock config of this family cannot hold fewer heads")
    return stack.attention


def _head_group(model: nn.Module, stack: Stack, layer: int, row: Attention) -> Group:
    """Heads, or with grouped queries the key-value groups: one key-value head and the query heads that share it."""
    block, config = f"{stack.layers}.{layer}", model.config
    size, heads, count = _head_counts(model, block, row)
    shared = heads // count
    slabs = [ParameterSlice(f"{block}.{row.output}.weight", 1, shared * size)]
    start = 0
    for path, width in ((row.query, shared * size), (row.key, size), (row.value, size)):
        slabs += _rows(model, f"{block}.{path}", 0, width, start)
        start += count * width if row.fused else 0
    if row.position_bias and layer == 0:
        slabs.append(ParameterSlice(f"{block}.{row.position_bias}.weight", 1, 1))
    fields = {row.key_value_heads: 1} | {row.heads: shared}
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}heads"),
        kind="heads",
        count=count,
        parameters=_parameters(model, slabs),
        slabs=tuple(slabs),
        watched=f"{block}.{row.output}",
        port="input",
        size=shared * size,
        fields=tuple(fields.items()),
        # T5 computes the bias of all layers' attention scores in the first layer, and for cross-attention a zero one.
        tie=f"{stack.name}.heads" if row.position_bias else "",
        level=row.heads if row.free_size else "",
        allowed=tuple(kept for kept in range(1, count + 1) if _holds(config, row, kept * shared)),
    )


def _head_counts(model: nn.Module, block: str, row: Attention) -> tuple[int, int, int]:
    """(size of a head, query heads, key-value heads) of one layer, by the shapes of its matrices."""
    size = head_size(model.config, row)
    query = model.get_parameter(f"{block}.{row.output}.weight").shape[1]
    key = model.get_parameter(f"{block}.{row.key}.weight").shape[0]
    return size, query // size, ((key - query) // 2 if row.fused else key) // size


def head_size(config: Any, row: Attention) -> int:
    """Dimensions of a head; most configs need not name what hidden size and head count say."""
    size = getattr(config, row.head_size, None) or config.hidden_size // getattr(config, row.heads)
    return int(size)


def _holds(config: Any, row: Attention, heads: int) -> bool:
    divides = any(getattr(config, field, False) for field in row.divides_where)
    return not divides or int(config.hidden_size) % heads == 0


def _head_dims(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    rows = [row for row in stack.attention if row.free_size]
    if not rows:
        raise UnitUnavailable("rotary positions or a stock config tie the dimensions of a head to each other")
    return [_dimension_group(model, stack, layer, row, role) for row in rows for role in ("query", "value")]


def _dimension_group(model: nn.Module, stack: Stack, layer: int, row: Attention, role: str) -> Group:
    """Dimensions in which queries meet keys, or in which values reach the output: as many in every head."""
    block = f"{stack.layers}.{layer}"
    size, heads, _ = _head_counts(model, block, row)
    query, key, value, output = (f"{block}.{path}" for path in (row.query, row.key, row.value, row.output))
    if role == "query":
        slabs = [*_rows(model, query, 0, 1), *_rows(model, key, 0, 1)]
    else:
        slabs = [ParameterSlice(f"{output}.weight", 1, 1), *_rows(model, value, 0, 1)]
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}{role}_dims"),
        kind="head_dims",
        count=heads * size,
        parameters=_parameters(model, slabs),
        slabs=tuple(slabs),
        watched=query if role == "query" else output,
        port="output" if role == "query" else "input",
        size=1,
        fields=((row.head_size, 1),),
        rows=heads,
        level=row.head_size,
    )


# --- layers --------------------------------------------------------------------------------------------------------


def _layers(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """A group of one: a layer competes with the other layers of its stack."""
    block, config = f"{stack.layers}.{layer}", _config(model)
    shared = tuple(row.position_bias for row in stack.attention if row.position_bias)  # moves to the next layer
    names = [name for name, _ in model.get_submodule(block).named_parameters() if not name.startswith(shared)]
    slabs = tuple(ParameterSlice(f"{block}.{name}", 0, 1) for name in names)
    return [
        Group(
            site=Site(stack.name, layer, "layers"),
            kind="layers",
            count=1,
            parameters=sum(model.get_parameter(slab.parameter).numel() for slab in slabs),
            slabs=slabs,
            watched=block,
            port="residual",
            size=int(config.hidden_size),
            fields=((stack.layer_count, 1),),
        )
    ]


UNITS: dict[str, Callable[[nn.Module, Stack, int], list[Group]]] = {
    "ffn": _neurons,
    "heads": _heads,
    "head_dims": _head_dims,
    "layers": _layers,
}
