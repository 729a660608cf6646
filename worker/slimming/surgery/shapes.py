"""The shapes that the parameters of a model will have after a cut, computed without cutting it.

Shape suffixes: I indices along one dimension of a parameter.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.surgery.slicing import staying
from worker.slimming.units.groups import Group, Kept, Site

Shape = tuple[int, ...]


def shapes_after(model: nn.Module, architecture: Architecture, groups: Sequence[Group], kept: Kept) -> dict[str, Shape]:
    """Name -> shape of every parameter of the model after `slicing.cut`; shared parameters are listed once.

    `groups` must be the groups of the sites in `kept`.
    """
    return _after(dict(model.named_parameters()), model, architecture, groups, kept)


def buffer_shapes_after(
    model: nn.Module, architecture: Architecture, groups: Sequence[Group], kept: Kept
) -> dict[str, Shape]:
    """As `shapes_after`, of the buffers that a checkpoint holds."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}
    return _after(buffers, model, architecture, groups, kept)


def _after(
    tensors: Mapping[str, Tensor], model: nn.Module, architecture: Architecture, groups: Sequence[Group], kept: Kept
) -> dict[str, Shape]:
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    units = [group for group in groups if group.kind != "layers"]
    for (name, dim), stays_I in staying(model, units, kept).items():
        if name in shapes:
            shapes[name][dim] = int(stays_I.sum()) // (len(stays_I) if stays_I.dim() > 1 else 1)
    removed = [group for group in groups if group.kind == "layers" and not kept[group.site].numel()]
    removed_names = {part.parameter for group in removed for part in (*group.slices, *group.buffers)}
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
