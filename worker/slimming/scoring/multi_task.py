"""One score for several tasks: the scores of each task are brought to one scale, then summed, maximised or voted on.

With s_t(u) the score that task t gives unit u, and the mean over all units of all groups:

    s'_t(u) = s_t(u) / mean_v |s_t(v)|     tasks with large gradients do not outweigh the others
    sum:  S(u) = sum over t of s'_t(u)     keeps the units that are important to all tasks together
    max:  S(u) = max over t of s'_t(u)     keeps the units that are important to any task

There is one factor for each task, so that the proportions between groups, which decide a global rank, stay as they are.

vote: a unit stays where most tasks alone would keep it (after DIET, 2026). Let q_t(u) be the share of the parameters
ranked together that task t removes before u. The mask of t at the ratio r keeps u if q_t(u) > r, and m = T // 2 + 1
masks, which are a majority, keep it if the m-th largest q_t(u) is above r. This m-th largest is the score, so that one
score serves every ratio. It depends on ranks alone. Of two tasks, units stay first that both keep.

Shape suffixes: T tasks, U units of a group, N units of all groups.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.slimming.allocation import Rules, density
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.units.groups import Group, Scores

VOTE = "vote"

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


def voted(tasks: Sequence[Scores], groups: Sequence[Group], rules: Rules) -> Scores:
    """The scores by a majority vote of two or more tasks, whose units are ranked by `rules`.

    They are the votes times the parameters of a unit, so that in a global rank without a normalisation, which ranks by
    score per parameter, the votes alone decide.
    """
    majority = len(tasks) // 2 + 1
    shares = [removed_before(scores, groups, rules) for scores in tasks]
    votes = {
        group.site: torch.stack([share[group.site] for share in shares]).sort(dim=0, descending=True).values
        for group in groups
    }
    return {group.site: (votes[group.site][majority - 1] * group.parameters).float() for group in groups}


def removed_before(scores: Scores, groups: Sequence[Group], rules: Rules) -> Scores:
    """The share of the parameters ranked together that are removed before each unit, float64 (U)."""
    if rules.scope != "global":
        return {group.site: _share_before(scores[group.site], torch.ones(group.count)) for group in groups}
    density_N = torch.cat([density(scores, group, rules) for group in groups])
    size_N = torch.cat([torch.full((group.count,), float(group.parameters)) for group in groups])
    parts = _share_before(density_N, size_N).split([group.count for group in groups])
    return {group.site: share_U for group, share_U in zip(groups, parts, strict=True)}


def _share_before(value_N: Tensor, size_N: Tensor) -> Tensor:
    """The share of the sizes that is removed before each: that of lower values, and of equal ones behind it (N)."""
    order_N = value_N.sort(descending=True, stable=True).indices.flip(0)
    size_N = size_N.double()[order_N]
    before_N = (size_N.cumsum(0) - size_N) / size_N.sum()
    return torch.empty_like(before_N).scatter_(0, order_N, before_N)


def united_paths(
    tasks: Sequence[ScorePath],
    rule: str,
    groups: Sequence[Group] = (),
    rules: Rules = Rules(),  # noqa: B008
) -> ScorePath:
    """One path of one step for all tasks. For a vote, `groups` and `rules` say which units are ranked together.

    With several tasks every path must have one step, since later steps depend on what their own task removed.
    """
    if len(tasks) == 1:
        return tasks[0]
    assert all(len(path.scores) == 1 for path in tasks)
    scores = [path.scores[0] for path in tasks]
    return ScorePath(tasks[0].ratios, (voted(scores, groups, rules) if rule == VOTE else united(scores, rule),))


def normalised(scores: Scores) -> Scores:
    """The scores divided by the mean of their absolute values; scores that are all zero are returned unchanged."""
    all_U = torch.cat([score_U.flatten() for score_U in scores.values()]).double()
    mean = all_U.abs().mean()
    return {site: (score_U.double() / mean).float() if mean > 0 else score_U for site, score_U in scores.items()}
