"""The table of the measurements, and their summary."""

from collections.abc import Sequence
from typing import Any

from benchmarks.runtimes_bench.measure import Measurement

HEADER = ("way", "family", "layout", "units", "difference", "holds", "MB", "tokens/s", "dense tokens/s")


def table(measured: Sequence[Measurement]) -> str:
    """A row for each measurement, in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *map(_row, measured)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(found: Measurement) -> tuple[str, ...]:
    case = found.pair.case
    named = (found.pair.way, case.family, case.layout.value, "+".join(unit.value for unit in case.units))
    if found.difference is None:
        return (*named, found.problem or "", "no" if found.was_run else "not run", "", "", "")
    speeds = (f"{speed:.0f}" if speed else "" for speed in (found.tokens_per_second, found.dense_tokens_per_second))
    return (*named, f"{found.difference:.1e}", "yes" if found.holds else "no", f"{found.megabytes:.2f}", *speeds)


def summary(measured: Sequence[Measurement]) -> dict[str, Any]:
    """The share of the promised pairs that hold, over those that were run; the pairs of runtimes that cannot be
    installed are counted apart."""
    run = [found for found in measured if found.was_run]
    return {
        "runtimes_equal": round(sum(found.holds for found in run) / len(run), 4) if run else None,
        "pairs_held": sum(found.holds for found in run),
        "pairs_promised": len(measured),
        "pairs_not_run": len(measured) - len(run),
    }
