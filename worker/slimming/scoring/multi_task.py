"""One ranking for several tasks: the scores of each on one scale, then summed or maxed.

With s_t(u) the score that task t gives unit u, and the mean over all units of all groups:

    s'_t(u) = s_t(u) / mean_v |s_t(v)|     no task outvotes another by the size of its gradients
    sum:  S(u) = sum over t of s'_t(u)     what is of most use to all together
    max:  S(u) = max over t of s'_t(u)     what any one of them needs

One factor for each task leaves the proportions between its groups as they are, which a global rank lives by.
Shape suffix: U units of a group.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from worker.slimming.scoring.iterative import ScorePath, Scores
from worker.slimming.units import Site

RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda scores_TU: scores_TU.sum(0),
    "max": lambda scores_TU: scores_TU.amax(0),
}


def united(tasks: Sequence[Mapping[Site, Tensor]], rule: str) -> Scores:
    """The scores of all tasks together, by a rule of RULES; those of a single task as they are."""
    if len(tasks) == 1:
        return dict(tasks[0])
    scaled = [normalised(scores) for scores in tasks]
    return {site: RULES[rule](torch.stack([scores[site] for scores in scaled])) for site in scaled[0]}


def united_paths(tasks: Sequence[ScorePath], rule: str) -> ScorePath:
    """One path of one step for all tasks. A path of several steps follows the removals of its own task alone."""
    if len(tasks) == 1:
        return tasks[0]
    assert all(len(path.scores) == 1 for path in tasks)
    return ScorePath(tasks[0].ratios, (united([path.scores[0] for path in tasks], rule),))


def normalised(scores: Mapping[Site, Tensor]) -> Scores:
    """The scores over the mean of their sizes; scores that are all zero stay so."""
    all_U = torch.cat([score_U.flatten() for score_U in scores.values()]).double()
    mean = all_U.abs().mean()
    return {site: (score_U.double() / mean).float() if mean > 0 else score_U for site, score_U in scores.items()}
