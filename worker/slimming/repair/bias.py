"""Bias compensation: the mean contribution of the removed inputs becomes part of the bias.

A consumer computes y = W h + b. With R the input channels that are removed, the bias becomes

    b' = b + W_R E[h_R],

the mean over the tokens of the calibration rows (FLAP: An et al., AAAI 2024, arXiv 2312.11983). It applies
where the stock config of the family can hold a bias.

Shape suffixes: C input channels of a consumer, O output channels.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.consumers import bias_of, consumers_of, replace_bias, weight_of
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.scoring.second_moments import Moments, collect
from worker.slimming.units.groups import Kept
from worker.slimming.units.layers import layers_of


class RepairUnavailable(ValueError):
    """The stock config of the family has no place for what the repair would add."""


def compensate_bias(repair_input: RepairInput) -> None:
    """Add the mean contribution of the removed inputs to the bias of every consumer that has one.

    Raises RepairUnavailable.
    """
    add_zero_biases(repair_input.model, repair_input.architecture, repair_input.kept)
    moments = _mean_inputs(repair_input) if repair_input.moments is None else repair_input.moments
    for consumer in repair_input.consumers:
        bias_O = bias_of(repair_input.model, consumer)
        if bias_O is None:
            continue
        mean_C = moments[consumer.path].mean_C
        removed_C = ~consumer.stays_C.to(mean_C.device)
        weight_OC = weight_of(repair_input.model, consumer).double()
        replace_bias(repair_input.model, consumer, bias_O.double() + weight_OC[:, removed_C] @ mean_C[removed_C])


def _mean_inputs(repair_input: RepairInput) -> Mapping[str, Moments]:
    """The mean inputs of the consumers with a bias, from one forward pass over the rows."""
    count = len(repair_input.calibration.batches)
    groups = [
        consumer.groups[0] for consumer in repair_input.consumers if bias_of(repair_input.model, consumer) is not None
    ]
    return collect(
        repair_input.model,
        groups,
        repair_input.calibration.batches,
        None,
        lambda done: repair_input.on_progress(done, count),
        grams=False,
    )


def add_zero_biases(model: Any, architecture: Architecture, kept: Kept) -> None:
    """Give the feed-forward modules zero biases where the stock config of the family has a field for them.

    Raises RepairUnavailable where no consumer of the groups in `kept` has a bias or can be given one.
    """
    for stack in architecture.stacks:
        row = stack.feed_forward
        if not row.bias or getattr(model.config, row.bias):
            continue
        limited = {field for attention in stack.attention for field in attention.divides_where}
        if row.bias in limited and any(site.unit == "heads" for site in kept):
            raise RepairUnavailable("a Llama with biases cannot be saved with a changed number of heads")
        for layer in layers_of(model, stack):
            for path in (*row.expand, row.contract):
                module: Any = layer.get_submodule(path)
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), requires_grad=False)
        setattr(model.config, row.bias, True)
    if all(bias_of(model, consumer) is None for consumer in consumers_of(model, architecture, kept)):
        raise RepairUnavailable("the stock config of this family gives these modules no bias")
