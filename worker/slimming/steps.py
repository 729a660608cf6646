"""Removal in several steps, with the scores taken anew on what each step leaves.

The model stays whole: what is removed already is masked, so that indices always mean units of the dense model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.groups import Site
from worker.slimming.surgery import masked

Scores = dict[Site, Tensor]


class Step(NamedTuple):
    """What one step has measured, and what it keeps."""

    ratio: float
    scores: Scores
    kept: dict[Site, Tensor]


def schedule(ratio: float, steps: int) -> list[float]:
    """The ratios of the steps: equal shares of the dense model each."""
    return [ratio * (step + 1) / steps for step in range(steps)]


def in_steps(
    model: nn.Module,
    architecture: Architecture,
    ratios: list[float],
    measure: Callable[[], Scores],
    choose: Callable[[Scores, float], dict[Site, Tensor]],
) -> Iterator[Step]:
    """One step for each of the rising `ratios`: `measure` the model as far as it is left, then `choose` what stays.

    The masks of all steps are nested. Stopping early is free: the steps taken so far stand.
    """
    kept: dict[Site, Tensor] = {}
    for ratio in ratios:
        with masked(model, architecture, kept):
            scores = measure()
        kept = choose(without_removed(scores, kept), ratio)
        yield Step(ratio, scores, kept)


def without_removed(scores: Mapping[Site, Tensor], kept: Mapping[Site, Tensor]) -> Scores:
    """The scores, with -inf for every unit that is gone already."""
    return {site: _only(score_U, kept[site]) if site in kept else score_U for site, score_U in scores.items()}


def _only(score_U: Tensor, kept_K: Tensor) -> Tensor:
    return torch.full_like(score_U, -torch.inf).index_copy_(0, kept_K, score_U[kept_K])
