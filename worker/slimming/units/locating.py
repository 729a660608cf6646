"""Finds the units of a loaded model, in the modules that a row of `architectures` names."""

from collections.abc import Callable, Sequence

from torch import nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.units.attention import dimension_groups, head_groups
from worker.slimming.units.experts import expert_groups
from worker.slimming.units.feed_forward import neuron_groups
from worker.slimming.units.groups import VOCABULARY, Group
from worker.slimming.units.layers import layer_groups, num_layers
from worker.slimming.units.vocabulary import vocabulary_group


def locate(model: nn.Module, architecture: Architecture, units: Sequence[str]) -> list[Group]:
    """The groups of the given units in the model, layer by layer, the vocabulary last. Raises UnitUnavailable."""
    in_layers = [
        group
        for stack in architecture.stacks
        for layer in range(num_layers(model, stack))
        for unit in units
        if unit != VOCABULARY.unit
        for group in UNITS[unit](model, stack, layer)
    ]
    return [*in_layers, *([vocabulary_group(model)] if VOCABULARY.unit in units else [])]


UNITS: dict[str, Callable[[nn.Module, Stack, int], list[Group]]] = {
    "ffn": neuron_groups,
    "heads": head_groups,
    "head_dims": dimension_groups,
    "layers": layer_groups,
    "experts": expert_groups,
}
