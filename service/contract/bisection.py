"""Bisection over models that become smaller one by one: which is the last that still holds."""

from collections.abc import Callable

PRECISION = 2.0**-22  # of a ratio; a neuron of a large model is more


def last_that_holds(count: int, holds: Callable[[int], bool], first: int | None = None) -> int:
    """The last of 1 to `count` for which `holds` is true, as long as it is true for all before it; 0 for none.

    Asks about log2(count + 1) of them, `first` before any other.
    """
    low, high, middle = 0, count + 1, first or (count + 1) // 2
    while high - low > 1:
        low, high = (middle, high) if holds(middle) else (low, middle)
        middle = (low + high) // 2
    return low


def turning_point(low: float, high: float, holds: Callable[[float], bool]) -> tuple[float, float]:
    """Two numbers PRECISION apart, of which `holds` is true for the first and not for the second, as it is for `low`
    and not for `high`."""
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high
