"""From cells to figures: what is kept as a share of dense, and by how much a method leads. Pure functions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality_bench.cells import BASELINES, LAYERWISE, OURS, TASKS, Cell, dense, slim

MAIN = "smollm2"
Records = Mapping[str, Mapping[str, Any]]


def mean_accuracy(records: Records, cells: Iterable[Cell]) -> float | None:
    """Mean calibrated accuracy; None where a cell is not measured."""
    values = [records[cell.key]["calibrated"]["value"] if cell.key in records else None for cell in cells]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def kept(records: Records, cells: Sequence[Cell]) -> float | None:
    """Mean calibrated accuracy of cut models as a share of the uncut models' on the same rows."""
    whole = mean_accuracy(records, [dense(cell.model, cell.task, cell.split, cell.rows) for cell in cells])
    part = mean_accuracy(records, cells)
    return None if whole is None or part is None else part / whole


def half_width(records: Records, cells: Sequence[Cell]) -> float:
    """Half of the 95 % interval of `kept`, by the rows judged; the uncut model's accuracy counts as known."""
    shares = [(records[cell.key]["calibrated"]["value"], records[cell.key]["judged"]) for cell in cells]
    variance = sum(share * (1 - share) / count for share, count in shares) / len(shares) ** 2
    whole = mean_accuracy(records, [dense(cell.model, cell.task, cell.split, cell.rows) for cell in cells])
    return 1.96 * math.sqrt(variance) / whole if whole else math.nan


def row(method: str, ratio: float, tasks: Sequence[str] = TASKS, model: str = MAIN, **choices: Any) -> list[Cell]:
    """One method on all tasks."""
    return [slim(model, task, method, ratio, **choices) for task in tasks]


def lead(records: Records, cells: Sequence[Cell], rivals: Sequence[str]) -> float | None:
    """Points of dense by which `cells` are ahead of the best rival that has the same repair and layout.

    None until every rival is measured.
    """
    ours = kept(records, cells)
    theirs = [kept(records, [replace(cell, method=rival) for cell in cells]) for rival in rivals]
    known = [value for value in theirs if value is not None]
    return None if ours is None or len(known) < len(theirs) else (ours - max(known)) * 100


def figures(records: Records) -> dict[str, float | None]:
    """The line that the benchmark prints last: what the defaults keep with per-layer widths, and by how much they lead.

    Kept is what is kept on all test rows once judged, else on 200 a task. Leads are on 200 a task, over the best of the
    five baselines with the same repair.
    """
    result: dict[str, float | None] = {}
    for ratio in (0.3, 0.5, 0.7):
        cells = row(OURS, ratio, layout="per_layer", repair=LAYERWISE)
        on_all = kept(records, [replace(cell, rows=0) for cell in cells])
        percent = round(ratio * 100)
        result[f"kept_at_{percent}"] = _rounded(kept(records, cells) if on_all is None else on_all, 4)
        result[f"lead_at_{percent}"] = _rounded(lead(records, cells, BASELINES), 2)
    return result


def quick_figures(records: Records) -> dict[str, float | None]:
    """What a quick run has measured: two tasks, few rows, no repair, one ratio, FFN neurons alone."""
    methods = {name: [Cell.of(dict(r)) for r in records.values() if r["method"] == name] for name in (OURS, "random")}
    ours, chance = kept(records, methods[OURS]), kept(records, methods["random"])
    assert ours is not None
    assert chance is not None
    return {"quick_kept_at_50": round(ours, 4), "quick_lead_over_random_at_50": round((ours - chance) * 100, 2)}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
