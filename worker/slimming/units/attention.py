"""The units of attention: heads, and the dimensions of heads."""

from typing import Any

from torch import nn

from worker.slimming.architectures import Attention, Stack
from worker.slimming.units.groups import Group, ParameterSlice, Site, UnitUnavailable
from worker.slimming.units.slices import config_of, parameters_of_unit, rows_of


def head_groups(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """The heads of each attention of a layer. Raises UnitUnavailable."""
    return [_head_group(model, stack, layer, row) for row in _attention(stack)]


def _attention(stack: Stack) -> tuple[Attention, ...]:
    if not stack.attention:
        raise UnitUnavailable("a stock config of this family cannot hold fewer heads")
    return stack.attention


def _head_group(model: nn.Module, stack: Stack, layer: int, row: Attention) -> Group:
    """The heads of a layer; with grouped queries a unit is a key-value head and the query heads that share it."""
    block, config = f"{stack.layers}.{layer}", stack.config_in(config_of(model))
    size, heads, count = _head_counts(model, block, row, config)
    shared = heads // count
    slices = [ParameterSlice(f"{block}.{row.output}.weight", 1, shared * size)]
    start = 0
    for path, width in ((row.query, shared * size), (row.key, size), (row.value, size)):
        slices += rows_of(model, f"{block}.{path}", 0, width, start)
        start += count * width if row.fused else 0
    if row.position_bias and (layer == 0 or not row.shares_position_bias):
        slices.append(ParameterSlice(f"{block}.{row.position_bias}.weight", 1, 1))
    fields = {stack.field(row.key_value_heads): 1} | {stack.field(row.heads): shared}
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}heads"),
        kind="heads",
        count=count,
        parameters=parameters_of_unit(model, slices),
        slices=tuple(slices),
        module=f"{block}.{row.output}",
        hook_point="input",
        size=shared * size,
        fields=tuple(fields.items()),
        # T5 computes the position bias of all layers in the first layer; cross-attention has none.
        tie=f"{stack.name}.heads" if row.position_bias and row.shares_position_bias else "",
        # Where a layer has two kinds of attention, one field of its config holds the number of heads of both.
        level=stack.field(row.heads) if row.free_size or len(stack.attention) > 1 else "",
        allowed=tuple(kept for kept in range(1, count + 1) if _holds(config, row, kept * shared)),
    )


def _head_counts(model: nn.Module, block: str, row: Attention, config: Any) -> tuple[int, int, int]:
    """(size of a head, query heads, key-value heads) of one layer, from the shapes of its matrices."""
    size = head_size(config, row)
    query = model.get_parameter(f"{block}.{row.output}.weight").shape[1]
    key = model.get_parameter(f"{block}.{row.key}.weight").shape[0]
    return size, query // size, ((key - query) // 2 if row.fused else key) // size


def head_size(config: Any, row: Attention) -> int:
    """The number of dimensions of a head; configs may leave it out where it is hidden size by head count."""
    size = getattr(config, row.head_size, None) or config.hidden_size // getattr(config, row.heads)
    return int(size)


def _holds(config: Any, row: Attention, heads: int) -> bool:
    divides = any(getattr(config, field, False) for field in row.divides_where)
    return not divides or int(config.hidden_size) % heads == 0


def dimension_groups(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """The dimensions of queries and of values, where heads may have any size. Raises UnitUnavailable."""
    rows = [row for row in stack.attention if row.free_size]
    if not rows:
        raise UnitUnavailable("rotary positions or a stock config tie the dimensions of a head to each other")
    return [_dimension_group(model, stack, layer, row, role) for row in rows for role in ("query", "value")]


def _dimension_group(model: nn.Module, stack: Stack, layer: int, row: Attention, role: str) -> Group:
    """The dimensions of all heads of a layer, of queries and keys or of values; every head keeps the same number."""
    block = f"{stack.layers}.{layer}"
    size, heads, _ = _head_counts(model, block, row, stack.config_in(config_of(model)))
    query, key, value, output = (f"{block}.{path}" for path in (row.query, row.key, row.value, row.output))
    if role == "query":
        slices = [*rows_of(model, query, 0, 1), *rows_of(model, key, 0, 1)]
    else:
        slices = [ParameterSlice(f"{output}.weight", 1, 1), *rows_of(model, value, 0, 1)]
    return Group(
        site=Site(stack.name, layer, f"{row.prefix}{role}_dims"),
        kind="head_dims",
        count=heads * size,
        parameters=parameters_of_unit(model, slices),
        slices=tuple(slices),
        module=query if role == "query" else output,
        hook_point="output" if role == "query" else "input",
        size=1,
        fields=((stack.field(row.head_size), 1),),
        rows=heads,
        level=row.head_size,
        within=f"{row.prefix}heads",
    )
