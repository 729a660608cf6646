"""Numbers as text: percentages, counts, sizes, durations, intervals and changes.

`service/api/status_page/formatting.js` has the same functions for the status page, and a test compares the two.
"""

import math
from decimal import ROUND_HALF_UP, Decimal

from service.contract.answers.result import Estimate

SCALES = ((1e9, "B", "GB"), (1e6, "M", "MB"), (1e3, "k", "kB"))
MIN_SCALED_COUNT = 1e4  # smaller counts are written in full
MINUS = "\N{MINUS SIGN}"


def fixed(number: float, digits: int) -> str:
    """`number` with that many decimals; ties are rounded away from zero, as JavaScript's `toFixed` does."""
    return str(Decimal(number).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def percent(share: float, digits: int = 1) -> str:
    """0.3041 -> 30.4 %, with a no-break space"""
    return f"{fixed(share * 100, digits)}\N{NO-BREAK SPACE}%"


def count(number: int) -> str:
    """134515008 -> 134.5 M"""
    found = next(((scale, unit) for scale, unit, _ in SCALES if number >= max(scale, MIN_SCALED_COUNT)), None)
    return f"{fixed(number / found[0], 1)} {found[1]}" if found else f"{number:,}"


def size(number: int) -> str:
    """269030016 -> 269.0 MB"""
    return next((f"{fixed(number / scale, 1)} {unit}" for scale, _, unit in SCALES if number >= scale), f"{number} B")


def milliseconds(number: float) -> str:
    """185.21 -> 185.2 ms"""
    return f"{fixed(number, 1)} ms"


def duration(seconds: float) -> str:
    """75.2 -> 1 min 15 s"""
    if seconds < 9.95:
        return f"{fixed(seconds, 1)} s"
    rounded = math.floor(seconds + 0.5)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def span(estimate: Estimate) -> str:
    """The interval of an estimate: 82.3 % to 93.6 %"""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def interval(estimate: Estimate) -> str:
    """An estimate with its interval: 89.2 % (82.3 % to 93.6 %)"""
    return f"{percent(estimate.value)} ({span(estimate)})"


def decimal(number: float) -> str:
    """-0.1234 -> −0.123"""
    return fixed(number, 3).replace("-", MINUS)


def signed(number: float) -> str:
    """0.1234 -> +0.123"""
    return f"{'+' if number >= 0 else ''}{decimal(number)}"


def change(pair: tuple[float, float]) -> str:
    """(4, 3) -> −25.0 %; empty where the first number is zero."""
    before, now = pair
    if before == 0:
        return ""
    share = now / before - 1
    return f"{MINUS if share < 0 else '+'}{percent(abs(share))}"


def points(pair: tuple[float, float]) -> str:
    """The difference of two shares: (0.90, 0.88) -> −2.0 points"""
    return difference((pair[1] - pair[0]) * 100)


def difference(number: float) -> str:
    """Percentage points with their sign; zero has none."""
    rounded = fixed(abs(number), 1)
    sign = "" if float(rounded) == 0 else MINUS if number < 0 else "+"
    return f"{sign}{rounded} points"
