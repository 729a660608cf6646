"""The mean of what goes as part of a bias, where the family's stock config can hold one.

Shape suffixes: C channels of a reading module's input, O its outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.linear_readers import bias_of, readers_of, weight_of, write_bias
from worker.slimming.scoring.second_moments import Moments, Rows, collect
from worker.slimming.units import Site, layers_of


class RepairUnavailable(ValueError):
    """The family's stock config has no place for what the repair would add."""


def bias(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Callable[[int, int], None],
) -> None:
    """b + W_R E[h_R] with R what goes: its mean contribution becomes part of the bias (FLAP, arXiv 2312.11983).

    Raises RepairUnavailable.
    """
    make_room(model, architecture, kept)
    readers = [reader for reader in readers_of(model, architecture, kept) if bias_of(model, reader) is not None]
    count = len(rows.batches)
    groups = [reader.groups[0] for reader in readers]
    moments = collect(model, groups, rows.batches, None, lambda done: on_progress(done, count), grams=False)
    fold(model, architecture, kept, rows, moments, on_progress)


def fold(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    _: Rows,
    moments: Mapping[str, Moments],
    __: Callable[[int, int], None],
) -> None:
    """`bias` where the moments are known, and there is room."""
    for reader in readers_of(model, architecture, kept):
        old_bias_O = bias_of(model, reader)
        if old_bias_O is None:
            continue
        mean_C = moments[reader.path].mean_C
        gone_C = ~reader.stays_C.to(mean_C.device)
        weight_OC = weight_of(model, reader).double()
        write_bias(model, reader, old_bias_O.double() + weight_OC[:, gone_C] @ mean_C[gone_C])


def make_room(model: Any, architecture: Architecture, kept: Mapping[Site, Tensor]) -> None:
    """Give the feed-forward modules the zero biases that a stock config of the family can ask for.

    Raises RepairUnavailable where none of the modules that read units of `kept` can have one.
    """
    for stack in architecture.stacks:
        row = stack.feed_forward
        if not row.bias or getattr(model.config, row.bias):
            continue
        if any(site.unit == "heads" for site in kept):
            raise RepairUnavailable("a Llama with biases cannot be written with any number of heads")
        for layer in layers_of(model, stack):
            for path in (*row.expand, row.contract):
                module: Any = layer.get_submodule(path)
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), requires_grad=False)
        setattr(model.config, row.bias, True)
    if all(bias_of(model, reader) is None for reader in readers_of(model, architecture, kept)):
        raise RepairUnavailable("the stock config of this family gives these modules no bias")
