"""One ranking for several tasks: the sum of their scores, each task's on the same scale.

With s_t(u) the score that task t gives unit u, and the mean over all units of all groups:

    s'_t(u) = s_t(u) / mean_v |s_t(v)|     the size of a task's gradients gives it no more weight
    S(u)    = sum over t of s'_t(u)        units that are of use to all tasks rank highest

One factor for each task leaves the proportions between its groups unchanged, which a global rank needs.
Shape suffix: U units of a group.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worker.slimming.scoring.iterative import ScorePath, Scores
from worker.slimming.units import Site


def united(tasks: Sequence[Mapping[Site, Tensor]]) -> Scores:
    """The summed scores of all tasks; the scores of a single task are returned unchanged."""
    if len(tasks) == 1:
        return dict(tasks[0])
    scaled = [normalised(scores) for scores in tasks]
    return {site: torch.stack([scores[site] for scores in scaled]).sum(0) for site in scaled[0]}


def united_paths(tasks: Sequence[ScorePath]) -> ScorePath:
    """One path of one step for all tasks. A path of several steps follows the removals of its own task alone."""
    if len(tasks) == 1:
        return tasks[0]
    assert all(len(path.scores) == 1 for path in tasks)
    return ScorePath(tasks[0].ratios, (united([path.scores[0] for path in tasks]),))


def normalised(scores: Mapping[Site, Tensor]) -> Scores:
    """The scores divided by the mean of their absolute values; scores that are all zero are returned unchanged."""
    all_U = torch.cat([score_U.flatten() for score_U in scores.values()]).double()
    mean = all_U.abs().mean()
    return {site: (score_U.double() / mean).float() if mean > 0 else score_U for site, score_U in scores.items()}
