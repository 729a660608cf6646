"""One score for several tasks: the scores of each task are brought to one scale, then summed or maximised.

With s_t(u) the score that task t gives unit u, and the mean over all units of all groups:

    s'_t(u) = s_t(u) / mean_v |s_t(v)|     tasks with large gradients do not outweigh the others
    sum:  S(u) = sum over t of s'_t(u)     keeps the units that are important to all tasks together
    max:  S(u) = max over t of s'_t(u)     keeps the units that are important to any task

There is one factor for each task, so that the proportions between groups, which decide a global rank, stay as they are.
Shape suffixes: T tasks, U units of a group.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.units import Scores

RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda scores_TU: scores_TU.sum(0),
    "max": lambda scores_TU: scores_TU.amax(0),
}


def united(tasks: Sequence[Scores], rule: str) -> Scores:
    """The scores for all tasks, by a rule of RULES. The scores of a single task are returned unchanged."""
    if len(tasks) == 1:
        return dict(tasks[0])
    scaled = [normalised(scores) for scores in tasks]
    return {site: RULES[rule](torch.stack([scores[site] for scores in scaled])) for site in scaled[0]}


def united_paths(tasks: Sequence[ScorePath], rule: str) -> ScorePath:
    """One path of one step for all tasks.

    With several tasks every path must have one step, since later steps depend on what their own task removed.
    """
    if len(tasks) == 1:
        return tasks[0]
    assert all(len(path.scores) == 1 for path in tasks)
    return ScorePath(tasks[0].ratios, (united([path.scores[0] for path in tasks], rule),))


def normalised(scores: Scores) -> Scores:
    """The scores divided by the mean of their absolute values; scores that are all zero are returned unchanged."""
    all_U = torch.cat([score_U.flatten() for score_U in scores.values()]).double()
    mean = all_U.abs().mean()
    return {site: (score_U.double() / mean).float() if mean > 0 else score_U for site, score_U in scores.items()}
