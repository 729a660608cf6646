"""Removal in several steps: the scores are computed again after each step, on what it leaves.

The model is not cut between the steps. Units that are removed are masked, so that indices are always those of the dense
model.

Shape suffixes: U units of a group, K units that stay.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.slimming.allocation import WidthUnreachable
from worker.slimming.architectures import Architecture
from worker.slimming.masking import masked
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Kept, Scores


@dataclass(frozen=True)
class ScorePath:
    """The scores of every step. In `scores[k]` the units that earlier steps removed have the score -inf.

    One path serves every ratio: a unit that is removed at a ratio is removed at every higher ratio.
    """

    ratios: tuple[float, ...]  # share that was removed when the scores were computed: ascending, the first is 0.0
    scores: tuple[Scores, ...]
    # Path of a consumer -> moments of its input in the dense model, where the scoring has measured them for a repair.
    moments: Mapping[str, Moments] | None = None

    def at(self, ratio: float) -> Scores:
        """The scores by which units are selected at `ratio`: those of the last step before it."""
        return self.scores[max(bisect_left(self.ratios, ratio) - 1, 0)]


def schedule(ratio: float, steps: int) -> tuple[float, ...]:
    """The ratios at which scores are computed on the way to `ratio`, equally spaced, starting at zero."""
    return tuple(ratio * step / steps for step in range(steps))


def follow(
    model: nn.Module,
    architecture: Architecture,
    ratios: Sequence[float],
    measure: Callable[[], Scores],
    choose: Callable[[Scores, float], Kept],
) -> ScorePath:
    """Compute the scores at each of the rising `ratios`, the first of which is zero.

    `measure` returns the scores of the model as it is masked; `choose` returns the units that are kept at a ratio. The
    path ends before the first ratio at which `choose` raises WidthUnreachable.
    """
    found: list[Scores] = []
    for ratio in ratios:
        try:
            kept = choose(found[-1], ratio) if found else {}
        except WidthUnreachable:
            break
        with masked(model, architecture, kept):
            found.append(without_removed(measure(), kept))
    return ScorePath(tuple(ratios[: len(found)]), tuple(found))


def without_removed(scores: Scores, kept: Kept) -> Scores:
    """The scores, with -inf for every unit that is not kept."""
    return {site: _only(score_U, kept[site]) if site in kept else score_U for site, score_U in scores.items()}


def _only(score_U: Tensor, kept_K: Tensor) -> Tensor:
    return torch.full_like(score_U, -torch.inf).index_copy_(0, kept_K, score_U[kept_K])
