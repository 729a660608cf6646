"""The input of a repair: one value for every method of `repairs`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from worker.slimming.architectures import Architecture
from worker.slimming.repair.consumers import Consumer, consumers_of
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Kept

# Called as on_progress(done, total).
Progress = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    """The default of `on_progress`."""


class CalibrationBatches(NamedTuple):
    """Calibration rows in batches, and the objective that tells which of their tokens matter (a key of OBJECTIVES)."""

    batches: Sequence[Batch]
    objective: str


@dataclass(frozen=True)
class RepairInput:
    """A model to repair, the units that it will keep, and the calibration rows to fit on.

    The model is still whole: a repair replaces weights of its consumers, and the later cut removes the other units.
    """

    model: nn.Module
    architecture: Architecture
    kept: Kept
    calibration: CalibrationBatches
    # Path of a consumer -> moments of its input in the dense model, from `measure_moments`. None: the repair measures
    # them in passes of its own over the rows.
    moments: Mapping[str, Moments] | None = None
    # Called with batches done and batches in all, over all passes, after each batch; may raise to end the repair.
    on_progress: Progress = ignore_progress

    @property
    def consumers(self) -> list[Consumer]:
        """The linear modules to repair, in the order of the forward pass."""
        return consumers_of(self.model, self.architecture, self.kept)
