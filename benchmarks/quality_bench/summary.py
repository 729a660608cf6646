"""The summary figures of measured cells: the share of the dense accuracy that is kept, and the lead over rivals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality_bench.cells import BASELINES, LAYERWISE, OURS, TASKS, Cell, dense, slim
from benchmarks.quality_bench.measurement import Measurements

MAIN = "smollm2"


def accuracies(measured: Measurements, cells: Iterable[Cell], name: str = "calibrated") -> list[float]:
    """An accuracy of measured cells: `shipped` or `calibrated`. Raises KeyError."""
    found = [(cell, getattr(measured[cell], name)) for cell in cells]
    assert all(estimate is not None for _, estimate in found), f"not evaluated: {[cell.key for cell, _ in found]}"
    return [estimate.value for _, estimate in found]


def mean_accuracy(measured: Measurements, cells: Iterable[Cell], name: str = "calibrated") -> float | None:
    """Mean accuracy; None where there is no cell or one is not measured."""
    cells = list(cells)
    if not cells or any(cell not in measured for cell in cells):
        return None
    return sum(accuracies(measured, cells, name)) / len(cells)


def kept(measured: Measurements, cells: Sequence[Cell]) -> float | None:
    """Mean accuracy of slim models divided by that of the dense models on the same rows: with label offsets where all
    of them have been measured so, else calibrated on the judged rows."""
    both = [*cells, *dense_of(cells)]
    name = "shipped" if all(cell in measured and measured[cell].shipped for cell in both) else "calibrated"
    whole, part = mean_accuracy(measured, dense_of(cells), name), mean_accuracy(measured, cells, name)
    return None if whole is None or part is None else part / whole


def half_width(measured: Measurements, cells: Sequence[Cell]) -> float:
    """Half the width of the 95 % interval of `kept`.

    The variance is that of a mean of binomial shares over the evaluation rows; the dense accuracy counts as exact.
    """
    shares = list(zip(accuracies(measured, cells), [measured[cell].judged or 0 for cell in cells], strict=True))
    variance = sum(share * (1 - share) / count for share, count in shares) / len(shares) ** 2
    whole = mean_accuracy(measured, dense_of(cells))
    return 1.96 * math.sqrt(variance) / whole if whole else math.nan


def dense_of(cells: Iterable[Cell]) -> list[Cell]:
    """The cells of the dense models on the same rows."""
    return [dense(cell.model, cell.task, cell.split, cell.rows) for cell in cells]


def row(method: str, ratio: float, tasks: Sequence[str] = TASKS, model: str = MAIN, **choices: Any) -> list[Cell]:
    """The cells of one method, one for each task."""
    return [slim(model, task, method, ratio, **choices) for task in tasks]


def lead(measured: Measurements, cells: Sequence[Cell], rivals: Sequence[str]) -> float | None:
    """How far `cells` are ahead of the best rival with the same options, in percent of the dense accuracy.

    None unless every rival is measured.
    """
    ours = kept(measured, cells)
    theirs = [kept(measured, [replace(cell, method=rival) for cell in cells]) for rival in rivals]
    known = [value for value in theirs if value is not None]
    return None if ours is None or len(known) < len(theirs) else (ours - max(known)) * 100


def figures(measured: Measurements) -> dict[str, float | None]:
    """The benchmark's last line: the default criterion and repair with per-layer widths, at each ratio.

    `kept_at_*` is `kept` on all test rows where they are measured, else on 200 a task; `lead_at_*` is `lead` over the
    five baselines on 200 a task.
    """
    result: dict[str, float | None] = {}
    for ratio in (0.3, 0.5, 0.7):
        cells = row(OURS, ratio, layout="per_layer", repair=LAYERWISE)
        on_all = kept(measured, [replace(cell, rows=0) for cell in cells])
        percent = round(ratio * 100)
        result[f"kept_at_{percent}"] = _rounded(kept(measured, cells) if on_all is None else on_all, 4)
        result[f"lead_at_{percent}"] = _rounded(lead(measured, cells, BASELINES), 2)
    return result


def quick_figures(measured: Measurements) -> dict[str, float | None]:
    """The figures of a quick run: two tasks, few rows, no repair, one ratio, FFN neurons alone."""
    methods = {name: [cell for cell in measured if cell.method == name] for name in (OURS, "random")}
    ours, by_random = kept(measured, methods[OURS]), kept(measured, methods["random"])
    assert ours is not None
    assert by_random is not None
    return {"quick_kept_at_50": round(ours, 4), "quick_lead_over_random_at_50": round((ours - by_random) * 100, 2)}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
