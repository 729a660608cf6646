"""The tables of the benchmark of the neighbouring papers, and the figures of its last line."""

import json
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.parts.neighbours.cells import (
    DEV_RATIOS,
    EXPERT_CRITERIA,
    EXPERT_RATIOS,
    FORMS,
    LAYERWISE,
    MERGE_RULES,
    MOE_TASKS,
    RANDOM_SEEDS,
    SMALL_RATIOS,
    SUPERVISIONS,
    T5_TASKS,
    UNION_RULES,
    WEIGHTS,
    Cell,
    dense,
)
from benchmarks.parts.neighbours.measure import Measurement
from service.contract.criteria import default_criterion
from service.contract.options import Repair
from service.contract.request.recovery import Recovery

Measured = Mapping[Cell, Measurement]
UNKNOWN = "·"
# Task -> the metric of a constant answer, above which the dense model's counts.
CONSTANT = {"sst2": 0.5, "squad_short": 0.0}
REPAIR_NAMES = {"none": "none", LAYERWISE: "layerwise"}
DEFAULT_RECOVERY = Recovery().method.value
DEFAULT_CRITERION = default_criterion(Repair.none).value  # of experts, which no repair serves
PRIVATE = "labels, exponential"  # the series of privacy.json with private labels


def document(measured: Measured) -> str:
    """All tables as Markdown."""
    selective = (_selectivity_forms(measured), *(_selectivity(measured, task) for task in CONSTANT))
    parts = (*selective, _dial(measured), _unions(measured))
    return "\n\n".join((*parts, _supervision(measured), _experts(measured)))


def figures(measured: Measured, directory: Path) -> dict[str, Any]:
    """The figures of the last line."""
    found: dict[str, Any] = {"reverse_collapse_at": _collapse(measured), "general_dial_gain": _dial_gain(measured)}
    return found | {
        "recovered_share_at_70": _recovered_share(directory / "recovery.json"),
        "private_kept_at_epsilon": _private_shares(directory / "privacy.json"),
        "recovered_share_at_80": None,
        "experts_kept_at_50": _experts_kept(measured, DEFAULT_CRITERION, 0.5),
    }


def _recovered_share(path: Path) -> float | None:
    """The share of the lost metric that the default recovery has won back, the mean over the measured tasks."""
    if not path.exists():
        return None
    shares = []
    for task in json.loads(path.read_text()).values():
        dense_value, slim_value = (task[name]["value"] for name in ("dense", "slim"))
        by_method = {each["recovery"]["method"]: each["value"] for each in task["recovered"]}
        shares.append((by_method[DEFAULT_RECOVERY] - slim_value) / (dense_value - slim_value))
    return round(fmean(shares), 3)


def _private_shares(path: Path) -> dict[str, float] | None:
    """Epsilon of a token -> mean share of the dense accuracy, for the budgets at which every task is measured."""
    if not path.exists():
        return None
    values = {key: cell["value"] for key, cell in json.loads(path.read_text()).items()}
    tasks = [key.removesuffix(", dense") for key in values if key.endswith(", dense")]
    budgets = dict.fromkeys(key.rpartition(", ")[2] for key in values if PRIVATE in key)
    shares = {
        budget: [values.get(f"{task}, {PRIVATE}, {budget}", 0) / values[f"{task}, dense"] for task in tasks]
        for budget in budgets
    }
    return {budget: round(fmean(each), 4) for budget, each in shares.items() if all(each)}


def _collapse(measured: Measured) -> float | None:
    before = measured.get(dense("selectivity", "smollm2", ("sst2",)))
    if before is None:
        return None
    half = CONSTANT["sst2"] + (before.metric - CONSTANT["sst2"]) / 2
    for ratio in SMALL_RATIOS:
        found = measured.get(Cell("selectivity", "smollm2", ("sst2",), "reverse", ratio, "none"))
        if found is not None and found.metric <= half:
            return ratio
    return None


def _dial_gain(measured: Measured) -> float | None:
    gains = []
    for task in T5_TASKS:
        ends = [measured.get(_dial_cell(task, "mixture", weight)) for weight in (0.0, 0.5)]
        if ends[0] is None or ends[1] is None:
            return None
        gains.append(100 * (ends[1].general - ends[0].general))
    return round(fmean(gains), 2)


def _selectivity(measured: Measured, task: str) -> str:
    model = dense("selectivity", "smollm2", (task,))
    lines = [*((form, 0) for form in FORMS), ("random", 0), ("random", 1), ("reverse", 0)]
    rows = [["dense", "", *[_metric_and_perplexity(measured.get(model))] * len(SMALL_RATIOS)]]
    for repair, name in REPAIR_NAMES.items():
        for method, seed in lines:
            cells = [
                Cell("selectivity", "smollm2", (task,), method, ratio, repair, seed=seed) for ratio in SMALL_RATIOS
            ]
            rows.append([f"{method}, seed {seed}" if method == "random" else method, name])
            rows[-1] += [_metric_and_perplexity(measured.get(cell)) for cell in cells]
    heads = ["neurons removed", "repair", *(f"{ratio:.0%}" for ratio in SMALL_RATIOS)]
    return _table(f"{task}: metric, and perplexity of plain texts", heads, rows)


def _selectivity_forms(measured: Measured) -> str:
    rows = []
    for task in CONSTANT:
        before = measured.get(dense("selectivity dev", "smollm2", (task,)))
        rows.append([task, "dense", *[_metric_and_perplexity(before)] * len(DEV_RATIOS)])
        for form in FORMS:
            cells = [Cell("selectivity dev", "smollm2", (task,), form, ratio, "none") for ratio in DEV_RATIOS]
            rows.append([task, form, *(_metric_and_perplexity(measured.get(cell)) for cell in cells)])
    heads = ["task", "form", *(f"{ratio:.0%}" for ratio in DEV_RATIOS)]
    return _table("The forms of selectivity on dev rows, without a repair: metric, and perplexity", heads, rows)


def _metric_and_perplexity(found: Measurement | None) -> str:
    if found is None:
        return UNKNOWN
    return f"{found.metric:.3f} ± {found.half_width:.3f}, {exp(-found.general):.4g}"


def _dial_cell(task: str, method: str, weight: float) -> Cell:
    return Cell("dial", "t5", (task,), method, 0.5, LAYERWISE, weight=weight)


def _dial(measured: Measured) -> str:
    before = [measured.get(dense("dial", "t5", (task,))) for task in T5_TASKS]
    rows = [["dense", "", *_means(before)]]
    for method in ("mixture", "shared_exclusive"):
        for weight in WEIGHTS:
            if weight or method == "mixture":
                found = [measured.get(_dial_cell(task, method, weight)) for task in T5_TASKS]
                rows.append([method, str(weight), *_means(found)])
    return _table("T5, half removed, mean over five tasks", ["rule", "weight", "task", "other tasks"], rows)


def _means(found: Sequence[Measurement | None]) -> list[str]:
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return [UNKNOWN, UNKNOWN]
    half_width = sum(each.half_width**2 for each in known) ** 0.5 / len(known)
    return [
        f"{fmean(each.metric for each in known):.3f} ± {half_width:.3f}",
        f"{fmean(each.general for each in known):.3f}",
    ]


def _unions(measured: Measured) -> str:
    rows = []
    for size in (2, 4):
        before = {
            cell.tasks: found for cell, found in measured.items() if cell.part == "union" and cell.method == "dense"
        }
        sets = [tasks for tasks in before if len(tasks) == size]
        for ratio in (0.5, 0.7):
            kept = [
                _mean_share(
                    [
                        (measured.get(Cell("union", "t5", tasks, rule, ratio, LAYERWISE)), before[tasks])
                        for tasks in sets
                    ]
                )
                for rule in UNION_RULES
            ]
            rows.append([f"{size}, {len(sets)} sets", f"{ratio:.0%}", *kept])
    return _table("T5, unions: percent of the dense mean", ["tasks", "removed", *UNION_RULES], rows)


def _mean_share(pairs: Sequence[tuple[Measurement | None, Measurement]]) -> str:
    shares = [100 * found.metric / before.metric for found, before in pairs if found is not None]
    if not shares or len(shares) < len(pairs):
        return UNKNOWN
    half_widths = [100 * found.half_width / before.metric for found, before in pairs if found is not None]
    return f"{fmean(shares):.1f} ± {fmean(half_widths):.1f}"


def _supervision(measured: Measured) -> str:
    rows = []
    for repair, name in REPAIR_NAMES.items():
        for ratio in (0.5, 0.7):
            cells = [
                [
                    (
                        measured.get(Cell("supervision", "t5", (task,), method, ratio, repair)),
                        measured.get(dense("supervision", "t5", (task,))),
                    )
                    for task in T5_TASKS
                ]
                for method in SUPERVISIONS
            ]
            rows.append([name, f"{ratio:.0%}", *(_kept(pairs) for pairs in cells)])
    return _table("T5, rows without labels: percent of the dense mean", ["repair", "removed", *SUPERVISIONS], rows)


def _kept(pairs: Sequence[tuple[Measurement | None, Measurement | None]]) -> str:
    known = [(found, before) for found, before in pairs if found is not None and before is not None]
    if len(known) < len(pairs):
        return UNKNOWN
    total = sum(before.metric for _, before in known)
    half_width = sum(found.half_width**2 for found, _ in known) ** 0.5
    return f"{100 * sum(found.metric for found, _ in known) / total:.1f} ± {100 * half_width / total:.1f}"


def _experts_kept(measured: Measured, method: str, ratio: float) -> float | None:
    """The mean accuracy over the tasks, divided by the dense model's."""
    pairs = [_of_experts(measured, task, method, ratio) for task in MOE_TASKS]
    known = [(found, before) for found, before in pairs if found is not None and before is not None]
    if len(known) < len(pairs):
        return None
    return round(sum(found.metric for found, _ in known) / sum(before.metric for _, before in known), 4)


def _of_experts(
    measured: Measured, task: str, method: str, ratio: float, seed: int = 0
) -> tuple[Measurement | None, Measurement | None]:
    """(slim, dense) of one task."""
    cell = Cell("experts", "moe", (task,), method, ratio, "none", seed=seed)
    return measured.get(cell), measured.get(dense("experts", "moe", (task,)))


def _experts(measured: Measured) -> str:
    lines = [(name, seed) for name in EXPERT_CRITERIA for seed in (RANDOM_SEEDS if name == "random" else (0,))]
    rows = []
    for method, seed in [*lines, *((f"merge {rule}", 0) for rule in MERGE_RULES)]:
        each = [[_of_experts(measured, task, method, ratio, seed) for task in MOE_TASKS] for ratio in EXPERT_RATIOS]
        rows.append([f"{method}, seed {seed}" if method == "random" else method, *map(_kept, each)])
    heads = ["method", *(f"{ratio:.0%}" for ratio in EXPERT_RATIOS)]
    return _table("Mixture of experts, experts removed: percent of the dense mean over four tasks", heads, rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])
