"""Removal in several steps, with the scores taken anew on what each step leaves.

The model stays whole: what is removed already is masked, so that indices always mean units of the dense model.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.slimming.allocation import WidthUnreachable
from worker.slimming.architectures import Architecture
from worker.slimming.masking import masked
from worker.slimming.units import Site

Scores = dict[Site, Tensor]


@dataclass(frozen=True)
class ScorePath:
    """Scores along a path of removals: one entry for each scoring; in scores[k] what earlier steps removed is -inf.

    One path serves every ratio: what goes on the way to a ratio is not kept at a higher one.
    """

    ratios: tuple[float, ...]  # share removed when the scores were taken; the first is 0.0, ascending
    scores: tuple[Scores, ...]

    def at(self, ratio: float) -> Scores:
        """The scores that decide what a removal of `ratio` keeps: those taken last on the way to it."""
        return self.scores[max(bisect_left(self.ratios, ratio) - 1, 0)]


def schedule(ratio: float, steps: int) -> tuple[float, ...]:
    """The ratios at which the scores are taken on the way to `ratio`: equal shares of the dense model apart."""
    return tuple(ratio * step / steps for step in range(steps))


def follow(
    model: nn.Module,
    architecture: Architecture,
    ratios: Sequence[float],
    measure: Callable[[], Scores],
    choose: Callable[[Scores, float], dict[Site, Tensor]],
) -> ScorePath:
    """`measure` the model at each of the rising `ratios`, the first of them zero; `choose` says what stays there.

    The path ends before the first ratio at which `choose` raises WidthUnreachable.
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


def without_removed(scores: Mapping[Site, Tensor], kept: Mapping[Site, Tensor]) -> Scores:
    """The scores, with -inf for every unit that is gone already."""
    return {site: _only(score_U, kept[site]) if site in kept else score_U for site, score_U in scores.items()}


def _only(score_U: Tensor, kept_K: Tensor) -> Tensor:
    return torch.full_like(score_U, -torch.inf).index_copy_(0, kept_K, score_U[kept_K])
