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
from worker.slimming.surgery.slicing import groups_of


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


def repair(repair_input: RepairInput, method: str) -> nn.Module:
    """Repair the whole model in place for a cut to `repair_input.kept`, by a method of REPAIRS; returns the model.

    Units without a consumer (query dimensions, layers) need no repair of their own. Raises RepairUnavailable.
    """
    with prepared(repair_input.model), torch.no_grad():
        REPAIRS[method].apply(repair_input)
    return repair_input.model


def measure_moments(repair_input: RepairInput, method: str) -> dict[str, Moments] | None:
    """Path of a consumer -> moments of its input in the dense model, as a later `repair` takes them.

    One pass over the rows. The moments do not depend on which units of the groups in `repair_input.kept` stay, so that
    one pass serves all cuts that are to be compared. None where the Gram matrices do not fit into memory together: each
    repair then has to measure them itself, portion by portion.
    """
    groups = [
        group
        for group in groups_of(repair_input.model, repair_input.architecture, repair_input.kept)
        if group.hook_point == "input"
    ]
    if not groups:  # neurons of experts alone, which a repair measures itself
        return {}
    fits_weights, batches = REPAIRS[method].fits_weights, repair_input.calibration.batches
    if fits_weights and len(portions(repair_input.model, groups)) > 1:
        return None
    objective = repair_input.calibration.objective if fits_weights else None
    with prepared(repair_input.model):
        return collect(
            repair_input.model,
            groups,
            batches,
            objective,
            lambda done: repair_input.on_progress(done, len(batches)),
            grams=fits_weights,
        )
