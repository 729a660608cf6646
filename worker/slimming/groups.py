"""The groups of units of a real model: the rows of `architectures` resolved to its modules.

A group is the set of units that compete for one width: the neurons of one layer, say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from worker.slimming.architectures import Architecture, FeedForward, Stack


class Site(NamedTuple):
    """Names a group. `str(site)` is the key of its tensor in files: "decoder.3.ffn"."""

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


@dataclass(frozen=True)
class Group:
    """The units of one site, each of which can be removed alone. Paths are absolute in the model.

    A unit is `size` neighbouring channels of the `contract` module's input. Groups whose `width` is the same config
    field must keep the same number of units in a checkpoint that stock transformers loads.
    """

    site: Site
    count: int  # units
    size: int
    width: str
    parameters: int  # weights and biases that leave with one unit
    contract: str
    expand: tuple[str, ...]
    fused: bool
    transposed: bool


def locate(model: nn.Module, architecture: Architecture, units: Sequence[str]) -> list[Group]:
    """The groups of `units` in `model`, in the order of its layers. Raises KeyError for a unit that is not in UNITS."""
    return [
        UNITS[unit](model, stack, layer)
        for stack in architecture.stacks
        for layer in range(len(model.get_submodule(stack.layers)))  # type: ignore[arg-type]
        for unit in units
    ]


def weight_ON(module: nn.Module, transposed: bool) -> Tensor:
    """The weight of a linear module as (outputs, inputs), a view."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if transposed else weight


def weights_UF(model: nn.Module, group: Group) -> tuple[Tensor, ...]:
    """What belongs to each unit: its columns of the contract weight, then its rows of each expanding weight."""
    contract_ON = weight_ON(model.get_submodule(group.contract), group.transposed)
    halves = [
        half_ON
        for path in group.expand
        for half_ON in weight_ON(model.get_submodule(path), group.transposed).chunk(2 if group.fused else 1)
    ]
    return tuple(weight.reshape(group.count, -1) for weight in (contract_ON.T, *halves))


def _neurons(model: nn.Module, stack: Stack, layer: int) -> Group:
    row, block = stack.feed_forward, f"{stack.layers}.{layer}"
    expand = tuple(f"{block}.{path}" for path in _expand(row, model.config))
    contract_ON = weight_ON(model.get_submodule(f"{block}.{row.contract}"), row.transposed)
    outputs, count = contract_ON.shape
    expanding = sum(p.numel() for path in expand for p in model.get_submodule(path).parameters())
    return Group(
        site=Site(stack.name, layer, "ffn"),
        count=count,
        size=1,
        width=row.width,
        parameters=outputs + expanding // count,
        contract=f"{block}.{row.contract}",
        expand=expand,
        fused=row.fused,
        transposed=row.transposed,
    )


def _expand(row: FeedForward, config: Any) -> tuple[str, ...]:
    return row.expand_gated if row.expand_gated and config.is_gated_act else row.expand


UNITS: dict[str, Callable[[nn.Module, Stack, int], Group]] = {"ffn": _neurons}
