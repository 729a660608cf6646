"""The repairs by name: training-free corrections that let the units that stay compensate for those that go.

A consumer is a linear module y = W h + b that takes units as its input. A repair changes the columns of W that
stay, or b, so that on the calibration rows y stays near its value in the dense model, or the residual stream does.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from worker.slimming.repair.bias import compensate_bias
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.repair.layerwise import least_squares_layerwise
from worker.slimming.repair.least_squares import least_squares
from worker.slimming.scoring.attribution import prepared
from worker.slimming.scoring.second_moments import Moments, collect, portions
from worker.slimming.surgery import groups_of


class Repair(NamedTuple):
    """A repair: the function that changes the model in place, and whether it fits weights or a bias alone."""

    apply: Callable[[RepairInput], None]
    # Needs Gram matrices, and gradients that weigh the tokens, instead of mean inputs alone.
    fits_weights: bool = True


REPAIRS: dict[str, Repair] = {
    "bias": Repair(compensate_bias, fits_weights=False),
    "least_squares": Repair(least_squares),
    "least_squares_layerwise": Repair(least_squares_layerwise),
}
FITTED = frozenset(name for name, row in REPAIRS.items() if row.fits_weights)


def repair(given: RepairInput, method: str) -> nn.Module:
    """Repair the whole model in place for a cut to `given.kept`, by a method of REPAIRS; returns the model.

    Units without a consumer (query dimensions, layers) need no repair of their own. Raises RepairUnavailable.
    """
    with prepared(given.model), torch.no_grad():
        REPAIRS[method].apply(given)
    return given.model


def measure_moments(given: RepairInput, method: str) -> dict[str, Moments] | None:
    """Path of a consumer -> moments of its input in the dense model, as a later `repair` takes them.

    One pass over the rows. The moments do not depend on which units of the groups in `given.kept` stay, so that one
    pass serves all cuts that are to be compared. None where the Gram matrices do not fit into memory together: each
    repair then has to measure them itself, portion by portion.
    """
    groups = [group for group in groups_of(given.model, given.architecture, given.kept) if group.hook_point == "input"]
    fits_weights, batches = REPAIRS[method].fits_weights, given.rows.batches
    if fits_weights and len(portions(groups)) > 1:
        return None
    objective = given.rows.objective if fits_weights else None
    with prepared(given.model):
        return collect(
            given.model,
            groups,
            batches,
            objective,
            lambda done: given.on_progress(done, len(batches)),
            grams=fits_weights,
        )
