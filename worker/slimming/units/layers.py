"""The layers of a stack, and each as a unit."""

from torch import nn

from worker.slimming.architectures import Stack
from worker.slimming.units.groups import Group, ParameterSlice, Site, UnitUnavailable
from worker.slimming.units.slices import config_of


def num_layers(model: nn.Module, stack: Stack) -> int:
    """The number of layers in the stack."""
    return len(layers_of(model, stack))


def layers_of(model: nn.Module, stack: Stack) -> nn.ModuleList:
    """The layers of the stack."""
    layers = model.get_submodule(stack.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def module_after_first(model: nn.Module, stack: Stack) -> nn.Module | None:
    """The module that follows the first layer of the stack alone; None where there is none."""
    path, _, name = stack.after_first.rpartition(".")
    found = getattr(model.get_submodule(path), name) if name else None
    assert found is None or isinstance(found, nn.Module)
    return found


def layer_groups(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """A layer as a group of one unit; it is ranked against the other layers of its stack."""
    if not stack.removable:
        raise UnitUnavailable("the stock class of this family fails without some of its layers")
    block, config = f"{stack.layers}.{layer}", stack.config_in(config_of(model))
    # A shared position bias is not removed with the layer, but moved to the next one.
    shared = tuple(row.position_bias for row in stack.attention if row.position_bias and row.shares_position_bias)
    names = [name for name, _ in model.get_submodule(block).named_parameters() if not name.startswith(shared)]
    slices = tuple(ParameterSlice(f"{block}.{name}", 0, 1) for name in names)
    parameters = {name for name, _ in model.get_submodule(block).named_parameters()}
    stored = model.get_submodule(block).state_dict()
    return [
        Group(
            site=Site(stack.name, layer, "layers"),
            kind="layers",
            count=1,
            parameters=sum(model.get_parameter(part.parameter).numel() for part in slices),
            slices=slices,
            module=block,
            hook_point="residual",
            size=int(config.hidden_size),
            fields=((stack.field(stack.layer_count), 1),),
            buffers=tuple(ParameterSlice(f"{block}.{name}", 0, 1) for name in stored if name not in parameters),
        )
    ]
