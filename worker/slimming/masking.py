"""Masking: removes the contribution of units for the duration of a context, without changing the model.

A masked model computes exactly what `slicing.cut` makes of it.

Shape suffixes: K units that stay, C channels of the group's activation.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.experts.neurons import without_neurons
from worker.slimming.experts.routing import without_experts
from worker.slimming.hooks import Visitor, watch
from worker.slimming.surgery.slicing import groups_of, stays
from worker.slimming.units.groups import Group, Kept


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: Kept) -> Iterator[None]:
    """Within the context the units that are not in `kept` contribute nothing; groups that it omits are whole."""
    with ExitStack() as hooks:
        for group in groups_of(model, architecture, kept):
            if group.hook_point == "experts":
                hooks.enter_context(without_experts(model, group, ~stays(group, kept[group.site])))
            elif group.hook_point == "expert neurons":
                hooks.enter_context(without_neurons(model, group, ~stays(group, kept[group.site])))
            else:
                hooks.enter_context(watch(model, group, _mask(group, kept[group.site])))
        yield


def _mask(group: Group, kept_K: Tensor) -> Visitor:
    """Zeroes the channels of the units that go (C); of a layer that goes, puts its input in the place of its output."""
    if group.hook_point == "residual":
        return lambda activation, before: activation if kept_K.numel() else before
    gone_C = ~stays(group, kept_K).repeat_interleave(group.size)
    return lambda activation, before: activation.masked_fill(gone_C.to(activation.device), 0)
