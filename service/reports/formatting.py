"""Figures as a person reads them: percentages, counts, sizes, durations, intervals."""

from service.contract.result import Estimate

SCALES = ((1e9, "B", "GB"), (1e6, "M", "MB"), (1e3, "k", "kB"))


def percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def count(number: int) -> str:
    """134515008 -> 134.5 M"""
    return next((f"{number / scale:.1f} {unit}" for scale, unit, _ in SCALES if number >= max(scale, 1e4)), f"{number}")


def size(number: int) -> str:
    """269030016 -> 269.0 MB"""
    return next((f"{number / scale:.1f} {unit}" for scale, _, unit in SCALES if number >= scale), f"{number} B")


def span(estimate: Estimate) -> str:
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def interval(estimate: Estimate) -> str:
    """89.2 % (82.3 % to 93.6 %)"""
    return f"{percent(estimate.value)} ({span(estimate)})"


def decimal(number: float) -> str:
    return f"{number:.3f}".replace("-", "−")


def signed(number: float) -> str:
    return f"{number:+.3f}".replace("-", "−")


def change(pair: tuple[float, float]) -> str:
    """(4, 3) -> −25.0 %"""
    before, now = pair
    if before == 0:
        return ""
    share = now / before - 1
    return f"{'−' if share < 0 else '+'}{percent(abs(share))}"


def points(pair: tuple[float, float]) -> str:
    """(0.90, 0.88) -> −2.0 points"""
    difference = round((pair[1] - pair[0]) * 100, 1)
    return f"{'−' if difference < 0 else '+' if difference > 0 else ''}{abs(difference):.1f} points"
