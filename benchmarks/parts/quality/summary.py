"""The summary figures of measured cells: the share that is kept of the dense models' figure, and the lead."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from benchmarks.parts.quality.cells import (
    BEST_BASELINES,
    LAYERWISE,
    OTHER_TASKS,
    OURS,
    TASKS,
    WRITTEN_TASKS,
    Cell,
    dense,
    of_kind,
    slim,
)
from benchmarks.parts.quality.measurement import Measurements
from service.contract.answers.result import Estimate
from service.contract.options import TaskMetric

MAIN = "smollm2"
WRITTEN = tuple(("smollm2-written", task) for task in WRITTEN_TASKS)
# (kind of task, ratio) -> the (model, task) pairs of its figure in the benchmark's last line.
KINDS: dict[tuple[str, float], tuple[tuple[str, str], ...]] = {
    ("generation", 0.3): WRITTEN,
    ("generation", 0.5): WRITTEN,
    ("ner", 0.5): (("bert-snips_slots", "snips_slots"),),
    ("embedding", 0.5): (("minilm", "stsb"),),
}

Figure = Literal["value", "raw"]  # of a measurement: with the label offsets that ship, or without


def estimates(measured: Measurements, cells: Iterable[Cell], figure: Figure) -> list[Estimate] | None:
    """A figure of every cell; None where there is no cell or one has no such figure."""
    found = [getattr(measured[cell], figure) if cell in measured else None for cell in cells]
    known = [estimate for estimate in found if estimate is not None]
    return known if known and len(known) == len(found) else None


def mean(measured: Measurements, cells: Iterable[Cell], figure: Figure) -> float | None:
    """The mean of a figure; None where there is no cell or one has no such figure."""
    found = estimates(measured, cells, figure)
    return None if found is None else sum(estimate.value for estimate in found) / len(found)


def kept(measured: Measurements, cells: Sequence[Cell], figure: Figure = "raw") -> float | None:
    """The mean of a figure of slim models divided by that of the dense models on the same rows."""
    whole, part = mean(measured, dense_of(cells), figure), mean(measured, cells, figure)
    return None if whole is None or part is None else part / whole


def half_width(measured: Measurements, cells: Sequence[Cell], figure: Figure = "raw") -> float:
    """Half the width of the 95 % interval of `kept`: that of a mean of independent estimates.

    The dense models' figure counts as exact.
    """
    found, whole = estimates(measured, cells, figure), mean(measured, dense_of(cells), figure)
    assert found is not None
    squares = sum(((estimate.high - estimate.low) / 2) ** 2 for estimate in found)
    return math.sqrt(squares) / len(found) / whole if whole else math.nan


def dense_of(cells: Iterable[Cell]) -> list[Cell]:
    """The cells of the dense models on the same rows."""
    return [dense(cell.model, cell.task, cell.split, cell.rows) for cell in cells]


def row(method: str, ratio: float, tasks: Sequence[str] = TASKS, model: str = MAIN, **choices: Any) -> list[Cell]:
    """The cells of one method, one for each task."""
    return [slim(model, task, method, ratio, **choices) for task in tasks]


def lead(measured: Measurements, cells: Sequence[Cell], rivals: Sequence[str], figure: Figure = "raw") -> float | None:
    """How far `cells` are ahead of the best rival with the same options, in percent of the dense models' figure.

    None unless every rival is measured.
    """
    ours = kept(measured, cells, figure)
    theirs = [kept(measured, [replace(cell, method=rival) for cell in cells], figure) for rival in rivals]
    known = [value for value in theirs if value is not None]
    return None if ours is None or len(known) < len(theirs) else (ours - max(known)) * 100


def figures(measured: Measurements) -> dict[str, float | None]:
    """The benchmark's last line, by the figure that ships: the default criterion and repair with per-layer widths.

    `kept_at_*` is `kept` over TASKS, `lead_at_*` the lead over `random` and the best baselines there, and
    `kept_at_50_other_tasks` the least that one of OTHER_TASKS keeps at a half, on all of its test rows. Tasks where the
    dense model is no better than a constant answer do not count: a share of nothing says nothing. The figures of KINDS
    are the least that a task of the kind keeps.
    """
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    result: dict[str, float | None] = {}
    for ratio in (0.3, 0.5, 0.7):
        cells, percent = row(OURS, ratio, **form), round(ratio * 100)
        result[f"kept_at_{percent}"] = _rounded(kept(measured, cells, "value"), 4)
        result[f"lead_at_{percent}"] = _rounded(lead(measured, cells, ("random", *BEST_BASELINES), "value"), 2)
    able = [task for task in OTHER_TASKS if exceeds_constant(measured, dense(MAIN, task, rows=0))]
    others = [kept(measured, [cell], "value") for cell in row(OURS, 0.5, able, rows=0, **form)]
    known = [share for share in others if share is not None]
    result["kept_at_50_other_tasks"] = round(min(known), 4) if known and len(known) == len(others) else None
    return result | _of_kinds(measured)


def _of_kinds(measured: Measurements) -> dict[str, float | None]:
    """The least that a task of a kind keeps with per-layer widths; None until all of its tasks are measured."""
    result: dict[str, float | None] = {}
    for (name, ratio), tasks in KINDS.items():
        cells = [of_kind(model, task, OURS, ratio, "per_layer") for model, task in tasks]
        shares = [kept(measured, [cell], "value") for cell in cells]
        known = [share for share in shares if share is not None]
        result[f"kept_at_{round(ratio * 100)}_{name}"] = round(min(known), 4) if len(known) == len(shares) else None
    return result


def exceeds_constant(measured: Measurements, cell: Cell) -> bool:
    """Whether a model is better than one that always gives the most frequent answer: by the whole interval.

    A constant answer has the share of that label as accuracy, and a Matthews correlation of 0. True for what is not
    measured with label offsets.
    """
    found = measured.get(cell)
    if found is None or found.value is None or found.majority is None:
        return True
    constant = 0.0 if found.metric == TaskMetric.matthews else found.majority
    return found.value.low > constant


def quick_figures(measured: Measurements) -> dict[str, float | None]:
    """The figures of a quick run: two tasks, few rows, no repair, one ratio, FFN neurons alone."""
    methods = {name: [cell for cell in measured if cell.method == name] for name in (OURS, "random")}
    ours, by_random = (kept(measured, methods[name], "value") for name in (OURS, "random"))
    assert ours is not None
    assert by_random is not None
    return {"quick_kept_at_50": round(ours, 4), "quick_lead_over_random_at_50": round((ours - by_random) * 100, 2)}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
