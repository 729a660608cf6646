"""Which units stay: scores and a ratio in, kept indices out."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from worker.slimming.groups import Group, Site


class WidthUnreachable(ValueError):
    """Rounding would take a width to zero."""


def select(
    scores: Mapping[Site, Tensor], groups: Sequence[Group], ratio: float, round_to: int = 64
) -> dict[Site, Tensor]:
    """The units of every group that stay, int64, sorted: those with the highest scores; of equals, the lowest index.

    `ratio` is the share removed. Groups of one config field keep one width, the multiple of `round_to` nearest to what
    the ratio leaves. What a higher ratio keeps, a lower one keeps too. Raises WidthUnreachable.
    """
    raise NotImplementedError
