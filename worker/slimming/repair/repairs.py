"""What the kept units can do for those that go, without training: the repairs by name.

A module that reads units computes y = W h + b. Its kept columns K are changed so that y stays as near as it can to what
it was on the calibration rows, or the residual stream behind it to what that was.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.bias import bias, fold
from worker.slimming.repair.layerwise import layerwise, layerwise_again
from worker.slimming.repair.least_squares import least_squares, refit
from worker.slimming.scoring.attribution import prepared
from worker.slimming.scoring.second_moments import Moments, Rows, collect, portions
from worker.slimming.units import Group, Site

Progress = Callable[[int, int], None]


class Repair(NamedTuple):
    """A repair in two forms: with a pass of its own over the rows, and with what such a pass has left."""

    fresh: Callable[[nn.Module, Architecture, Mapping[Site, Tensor], Rows, Progress], None]
    known: Callable[[nn.Module, Architecture, Mapping[Site, Tensor], Rows, Mapping[str, Moments], Progress], None]
    grams: bool = True  # whether it needs Gram matrices, and gradients that weigh the tokens; else mere means


REPAIRS: dict[str, Repair] = {
    "bias": Repair(bias, fold, grams=False),
    "least_squares": Repair(least_squares, refit),
    "least_squares_layerwise": Repair(layerwise, layerwise_again),
}
FITTED = frozenset(name for name, row in REPAIRS.items() if row.grams)


def repair(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    method: str,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Repair the whole `model` in place for a cut to `kept`, by the named method of REPAIRS.

    Groups that no module reads linearly (query dimensions, layers) are left alone. `on_progress` hears how many of how
    many batches are done, all passes together. Raises RepairUnavailable.
    """
    with prepared(model), torch.no_grad():
        REPAIRS[method].fresh(model, architecture, kept, rows, on_progress)


def repair_again(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    method: str,
    moments: Mapping[str, Moments],
    on_progress: Progress = lambda done, total: None,
) -> None:
    """`repair` where `moments_of` the dense model are known: path of a reader -> those of its input."""
    with prepared(model), torch.no_grad():
        REPAIRS[method].known(model, architecture, kept, rows, moments, on_progress)


def moments_of(
    model: nn.Module,
    architecture: Architecture,
    groups: Sequence[Group],
    rows: Rows,
    method: str,
    on_batches: Callable[[int], None] = lambda done: None,
) -> dict[str, Moments] | None:
    """What `repair_again` needs of every module that reads units of `groups`, from one pass over the batches.

    It holds for every choice of units, so that one pass serves as many cuts as are to be compared. None where the Gram
    matrices would not fit: then `repair` has to be called for each cut.
    """
    read, grams = [group for group in groups if group.port == "input"], REPAIRS[method].grams
    if grams and len(portions(read)) > 1:
        return None
    with prepared(model):
        return collect(model, read, rows.batches, rows.objective if grams else None, on_batches, grams=grams)
