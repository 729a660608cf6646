"""The table of the measurements, and their summary."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.runtimes.measure import Measurement
from service.contract.answers.result import Result
from service.contract.options import Format

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


def demo_summary(path: Path) -> dict[str, float]:
    """The share of the parameters that the recorded run of the demo has removed, the points of accuracy that it has
    lost, and the bytes of its Q8_0 file as a share of the dense checkpoint's."""
    slim = Result.model_validate(json.loads(path.read_text())["slim"])
    dense, after = slim.metrics.dense.value.value, slim.metrics.slim.value.value
    [gguf] = [export for export in slim.exports if export.format is Format.gguf]
    return {
        "demo_parameters_removed": round(1 - slim.parameters.slim / slim.parameters.dense, 4),
        "demo_points_lost": round(100 * (dense - after), 2),
        "slim_q8_bytes_share": round(gguf.bytes / slim.bytes.dense, 4),
    }


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
