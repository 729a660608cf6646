"""The neurons of feed-forward blocks."""

from typing import Any

from torch import nn

from worker.slimming.architectures import FeedForward, Stack
from worker.slimming.units.experts import expert_neuron_group
from worker.slimming.units.groups import EXPERT_STEP, Group, ParameterSlice, Site
from worker.slimming.units.slices import config_of, has_module, parameters_of_unit, rows_of


def neuron_groups(model: nn.Module, stack: Stack, layer: int) -> list[Group]:
    """The neurons of a layer: of its block, or of its experts and of the block beside them."""
    row = stack.experts
    if row is None or not has_module(model, f"{stack.layers}.{layer}.{row.experts}"):
        return [_block_neurons(model, stack, layer, stack.feed_forward, "ffn")]
    shared, routed = row.shared, expert_neuron_group(model, stack, layer, row)
    if shared is None or (shared.blocks and not getattr(stack.config_in(config_of(model)), shared.blocks)):
        return [routed]
    return [routed, _block_neurons(model, stack, layer, shared, "shared_ffn")]


def _block_neurons(model: nn.Module, stack: Stack, layer: int, row: FeedForward, unit: str) -> Group:
    """The neurons of a block of linear modules."""
    block, config = f"{stack.layers}.{layer}", stack.config_in(config_of(model))
    inputs, outputs = (0, 1) if row.transposed else (1, 0)
    contract = f"{block}.{row.contract}"
    count = model.get_parameter(f"{contract}.weight").shape[inputs]
    slices = [ParameterSlice(f"{contract}.weight", inputs, 1)]
    for path in _expand(row, config):
        for half in range(2 if row.fused else 1):
            slices += rows_of(model, f"{block}.{path}", outputs, 1, start=half * count)
    return Group(
        site=Site(stack.name, layer, unit),
        kind="ffn",
        count=count,
        parameters=parameters_of_unit(model, slices),
        slices=tuple(slices),
        module=contract,
        hook_point="input",
        size=1,
        fields=((stack.field(row.width), 1),),
        rows=int(getattr(config, row.blocks)) if row.blocks else 1,
        step=EXPERT_STEP if row.blocks else 1,  # blocks have the width of the experts beside them
        is_added=row.added,
    )


def _expand(row: FeedForward, config: Any) -> tuple[str, ...]:
    return row.expand_gated if row.expand_gated and config.is_gated_act else row.expand
