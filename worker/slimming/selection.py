"""Which units stay: scores and a ratio in, kept indices out.

Shape suffixes: U units of a group, K kept ones.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from worker.slimming.groups import Group, Site


class WidthUnreachable(ValueError):
    """Rounding would take a width to zero."""


def select(
    scores: Mapping[Site, Tensor], groups: Sequence[Group], ratio: float, round_to: int = 64
) -> dict[Site, Tensor]:
    """The units of every group that stay, int64, sorted: those with the highest scores; of equals, the lowest index.

    `ratio` is the share removed. Every group keeps the multiple of `round_to` nearest to what the ratio leaves, so that
    groups of equal size, as those that share a config field are, stay equal. What a higher ratio keeps, a lower one
    keeps too. Raises WidthUnreachable.
    """
    return {group.site: best(scores[group.site], width(group, ratio, round_to)) for group in groups}


def width(group: Group, ratio: float, round_to: int) -> int:
    """Units that `group` keeps. Raises WidthUnreachable."""
    if ratio == 0:
        return group.count
    nearest = math.floor((1 - ratio) * group.count / round_to + 0.5) * round_to
    kept = min(nearest, group.count // round_to * round_to)
    if kept == 0:
        raise WidthUnreachable(
            f"a ratio of {ratio} leaves {(1 - ratio) * group.count:.0f} of the {group.count} units of {group.site}, "
            f"which rounds to no multiple of {round_to} but zero"
        )
    return kept


def best(score_U: Tensor, num_kept: int) -> Tensor:
    """Sorted indices of the `num_kept` highest scores (K)."""
    return score_U.sort(descending=True, stable=True).indices[:num_kept].sort().values
