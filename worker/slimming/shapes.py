"""The shapes that the parameters of a model will have after a cut, computed without cutting it.

Shape suffixes: I indices along one dimension of a parameter.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from worker.slimming.architectures import Architecture
from worker.slimming.surgery import staying
from worker.slimming.units import Group, Kept, Site

Shape = tuple[int, ...]


def shapes_after(model: nn.Module, architecture: Architecture, groups: Sequence[Group], kept: Kept) -> dict[str, Shape]:
    """Name -> shape of every parameter of the model after `surgery.cut`; shared parameters are listed once.

    `groups` must be the groups of the sites in `kept`.
    """
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    units = [group for group in groups if group.kind != "layers"]
    for (name, dim), stays_I in staying(model, units, kept).items():
        shapes[name][dim] = int(stays_I.sum())
    removed = [group for group in groups if group.kind == "layers" and not kept[group.site].numel()]
    removed_names = {part.parameter for group in removed for part in group.slices}
    numbers = _layer_numbers(architecture, groups, {group.site for group in removed})
    return {_renumbered(name, numbers): tuple(shape) for name, shape in shapes.items() if name not in removed_names}


def _layer_numbers(architecture: Architecture, groups: Sequence[Group], removed: set[Site]) -> dict[str, str]:
    """Path of a layer -> its path after the removal of layers before it.

    A removed layer is mapped to the first layer, which takes over the parameters that outlive it.
    """
    found: dict[str, str] = {}
    for stack in architecture.stacks:
        sites = [group.site for group in groups if group.kind == "layers" and group.site.stack == stack.name]
        staying_sites = [site for site in sites if site not in removed]
        for site in sites:
            rank = staying_sites.index(site) if site in staying_sites else 0
            found[f"{stack.layers}.{site.layer}."] = f"{stack.layers}.{rank}."
    return found


def _renumbered(name: str, numbers: Mapping[str, str]) -> str:
    old = next((path for path in numbers if name.startswith(path)), "")
    return numbers.get(old, "") + name.removeprefix(old)
