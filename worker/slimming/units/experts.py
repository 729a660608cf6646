"""The units of a mixture of experts: whole experts, and the neurons within them."""

from typing import Any

from torch import nn

from worker.slimming.architectures import Experts, Stack
from worker.slimming.units.groups import EXPERT_STEP, Group, ParameterSlice, Site, UnitUnavailable
from worker.slimming.units.slices import config_of, has_module, parameters_of_unit


def expert_groups(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """The experts of a layer, each with its row of the router; nothing of a layer without experts."""
    row = stack.experts
    if row is None:
        raise UnitUnavailable("the layers of this family have no experts")
    block, config = f"{stack.layers}.{layer}", stack.config_in(config_of(model))
    experts, router = f"{block}.{row.experts}", f"{block}.{row.router}"
    if not has_module(model, experts):
        return []
    names = [f"{path}.{name}" for path in (experts, router) for name, _ in model.get_submodule(path).named_parameters()]
    slices = tuple(ParameterSlice(name, 0, 1) for name in names)
    count = model.get_parameter(f"{router}.weight").shape[0]
    return [
        Group(
            site=Site(stack.name, layer, "experts"),
            kind="experts",
            count=count,
            parameters=parameters_of_unit(model, slices),
            slices=slices,
            module=experts,
            hook_point="experts",
            size=int(config.hidden_size),
            fields=((stack.field(row.count), num_groups(config, row)),),
            rows=num_groups(config, row),
            allowed=tuple(kept for kept in range(1, count + 1) if _routes(config, row, kept)),
            router=router,
            stream=(f"{block}.{row.norm}", block),
            limited=((stack.field(row.per_token), int(getattr(config, row.per_token))),),
            buffers=tuple(ParameterSlice(f"{router}.{name}", 0, 1) for name in row.buffers),
        )
    ]


def num_groups(config: Any, row: Experts) -> int:
    """The number of groups that the experts of a layer form."""
    return int(getattr(config, row.groups)) if row.groups else 1


def _routes(config: Any, row: Experts, experts: int) -> bool:
    """Whether the stock router can choose among so many experts.

    A router of groups adds up the two best experts of each, so that each has two or more. Where a token is not sent to
    experts of all groups, those of the chosen ones have to be enough.
    """
    if not row.groups:
        return True
    groups, chosen = num_groups(config, row), int(getattr(config, row.chosen_groups))
    is_enough = chosen == groups or experts // groups * chosen >= int(getattr(config, row.per_token))
    return experts % groups == 0 and experts // groups >= 2 and is_enough


def expert_neuron_group(model: nn.Module, stack: Stack, layer: int, row: Experts) -> Group:
    """The neurons of all experts of a layer, one row for each expert; every expert keeps the same number of its own."""
    path, neurons = f"{stack.layers}.{layer}.{row.experts}", row.neurons
    inputs, outputs = (1, 2) if neurons.transposed else (2, 1)
    experts, width = (model.get_parameter(f"{path}.down_proj").shape[dim] for dim in (0, inputs))
    slices = [ParameterSlice(f"{path}.down_proj", inputs, 1, by_row=True)]
    for name, _ in model.get_submodule(path).named_parameters():
        if name.startswith("gate_up_proj"):
            dim = 1 if name.endswith("bias") else outputs
            starts, size = ((0,), 2) if neurons.interleaved else ((0, width), 1)
            slices += [ParameterSlice(f"{path}.{name}", dim, size, start, by_row=True) for start in starts]
    return Group(
        site=Site(stack.name, layer, "expert_ffn"),
        kind="ffn",
        count=experts * width,
        parameters=parameters_of_unit(model, slices),
        slices=tuple(slices),
        module=path,
        hook_point="expert neurons",
        size=1,
        fields=((stack.field(neurons.width), 1),),
        rows=experts,
        step=EXPERT_STEP,
        within="experts",
    )
