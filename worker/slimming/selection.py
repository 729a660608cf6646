"""Selection: from scores and a ratio to the indices of the units that are kept.

Shape suffixes: U units of a group, R rows, K kept units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.slimming.allocation import Rules, WidthUnreachable, allocate
from worker.slimming.units.groups import Group, Kept, Scores

__all__ = ["Rules", "WidthUnreachable", "best", "select"]


def select(
    scores: Scores,
    groups: Sequence[Group],
    ratio: float,
    round_to: int = 64,
    rules: Rules = Rules(),  # noqa: B008
) -> Kept:
    """The units of every group that are kept, int64 and sorted: those with the highest scores, then the lowest index.

    `ratio` is the share of the groups' parameters that is removed. Rows of the vocabulary that no text needs go first.
    Feed-forward widths are the multiples of `round_to` that are nearest to what the ratio leaves. With layers among the
    units, the ratio may be missed by half a layer. A
    higher ratio keeps a subset of what a lower ratio keeps. The exception is a global rank with equal widths of several
    kinds of units: where the ratio would need a fraction of a head in every layer, the width of another kind makes up
    the difference. Raises WidthUnreachable.
    """
    merged = _tied(scores, groups)
    counts = allocate(merged, groups, ratio, round_to, rules)
    return {group.site: best(merged[group.site], counts[group.site], group.rows) for group in groups}


def best(score_U: Tensor, num_kept: int, rows: int = 1) -> Tensor:
    """The sorted indices of the `num_kept` highest scores, the same number in each of the `rows` (K)."""
    per_row = num_kept // rows
    order_RU = score_U.view(rows, -1).sort(dim=1, descending=True, stable=True).indices[:, :per_row]
    offset_R = torch.arange(rows).unsqueeze(1) * (score_U.numel() // rows)
    return (order_RU + offset_R).flatten().sort().values


def _tied(scores: Scores, groups: Sequence[Group]) -> Scores:
    """The scores, with those of groups that must keep the same indices replaced by their mean.

    A unit of tied groups is removed from all of them at once: its scores add up, and so do its parameters. The mean is
    therefore its score per parameter, by which a global rank compares it with units of one group.
    """
    merged = dict(scores)
    for tie in {group.tie for group in groups if group.tie}:
        sites = [group.site for group in groups if group.tie == tie]
        mean_U = torch.stack([scores[site] for site in sites]).mean(0)
        merged |= dict.fromkeys(sites, mean_U)
    return merged
