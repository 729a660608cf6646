"""RESULTS.md's part on quality and its figure, written from quality.json."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.quality_bench import text as quality_text
from benchmarks.quality_bench.cells import (
    ALL_RATIOS,
    BASELINES,
    CONTROLS,
    DENSE,
    FINALISTS,
    GISP_STEPS,
    LAYERWISE,
    MODEL_TASKS,
    OURS,
    RIVALS,
    SAME_LABELS,
    SEEDS,
    T5_TASKS,
    TASKS,
    TIMED,
    Cell,
    dense,
    slim,
)
from benchmarks.quality_bench.figure import draw
from benchmarks.quality_bench.summary import MAIN, Records, half_width, kept, lead, mean_accuracy, row
from benchmarks.quality_bench.text import LAYOUTS, REPAIR_NAMES, REPAIRS

PAGE = "RESULTS.md"
FIGURE = "quality.svg"
BEGIN, END = "<!-- quality: written by benchmarks/quality.py -->", "<!-- end of quality -->"
METHODS = (OURS, *RIVALS, *BASELINES, *CONTROLS)
RATIOS = (0.3, 0.5, 0.7)
NOT_YET = "·"


def write(records: Records, directory: Path) -> None:
    """Replace the quality part of RESULTS.md, or add it, and draw the figure."""
    draw(records, directory / FIGURE)
    path = directory / PAGE
    text = path.read_text() if path.exists() else "# Results\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before.rstrip()}\n\n{BEGIN}\n{part(records)}\n{END}\n{after.lstrip()}")


def part(records: Records) -> str:
    """Everything between the marks."""
    sections = [quality_text.INTRODUCTION, *_headline(records), *_means(records), *_leads(records)]
    sections += [*_finalists(records), *_settings(records), *_choices(records), *_tasks(records)]
    sections += [*_seconds(records), *_t5(records)]
    return "\n\n".join(sections)


def _headline(records: Records) -> Iterator[str]:
    yield f"### What the default keeps\n\n{quality_text.HEADLINE}\n\n![kept by ratio]({FIGURE})"
    rows = []
    for layout, repair in product(LAYOUTS, REPAIRS):
        cells = [row(OURS, ratio, layout=layout, repair=repair) for ratio in RATIOS]
        rows.append([layout, REPAIRS[repair], *(_kept(records, each) for each in cells)])
    header = ["layout", "repair", *(f"{ratio:.0%} removed" for ratio in RATIOS)]
    yield table(header, _measured(rows, 2))


def _means(records: Records) -> Iterator[str]:
    yield "### Every criterion, with and without the same repair\n\n" + quality_text.MEANS
    yield from _whole(records, "smollm2", TASKS)
    both = "FFN neurons and key-value groups in one budget"
    yield from _comparison(records, f"Layout `per_layer`, {both}:", layout="per_layer")
    yield from _comparison(records, f"Layout `uniform`, {both}:", layout="uniform")
    alone = "Layout `uniform`, FFN neurons alone, which is what a job does unless told otherwise:"
    yield from _comparison(records, alone, layout="uniform", units=("ffn",))


def _whole(records: Records, model: str, tasks: Sequence[str]) -> Iterator[str]:
    """The lines between which all figures lie."""
    cells = [dense(model, task) for task in tasks]
    if (mean := mean_accuracy(records, cells)) is not None:
        majority = sum(records[cell.key]["majority"] for cell in cells) / len(cells)
        yield (
            f"The uncut model's mean is {mean:.3f}; whoever always gives the most frequent label has {majority:.3f}, "
            f"which is {majority / mean * 100:.1f} of it."
        )


def _comparison(records: Records, title: str, **choices: Any) -> Iterator[str]:
    columns = [
        (repair, ratio)
        for repair, ratio in product(REPAIRS, RATIOS)
        if any(_kept(records, row(method, ratio, repair=repair, **choices)) != NOT_YET for method in METHODS)
    ]
    rows = [
        [method, *(_kept(records, row(method, ratio, repair=repair, **choices)) for repair, ratio in columns)]
        for method in METHODS
    ]
    rows += _variants(records, columns, **choices)
    yield title
    yield table(["criterion", *(f"{ratio:.0%}, {REPAIRS[repair]}" for repair, ratio in columns)], _measured(rows, 1))


def _variants(
    records: Records, columns: Sequence[tuple[str, float]], model: str = MAIN, **choices: Any
) -> Iterator[list[str]]:
    """Criteria in more than one form: drawn with several seeds, or with scores taken anew before each step."""

    def cells(method: str, repair: str, ratio: float, **form: int) -> list[Cell]:
        return row(method, ratio, MODEL_TASKS[model], model, repair=repair, **choices, **form)

    seeds = [[cells("random", repair, ratio, seed=seed) for seed in SEEDS] for repair, ratio in columns]
    yield [f"random, mean of seeds {SEEDS[0]} to {SEEDS[-1]}", *(_mean_kept(records, each) for each in seeds)]
    stepped = (cells("gisp", repair, ratio, steps=GISP_STEPS) for repair, ratio in columns)
    yield [f"gisp, {GISP_STEPS} steps", *(_kept(records, each) for each in stepped)]


def _leads(records: Records) -> Iterator[str]:
    yield "### By how much the default leads\n\n" + quality_text.LEADS
    yield _lead_table(records, TASKS, "smollm2")


def _lead_table(records: Records, tasks: Sequence[str], model: str) -> str:
    rivals = (*BASELINES, *RIVALS)
    rows = []
    for layout, repair, ratio in product(LAYOUTS, REPAIRS, RATIOS):
        ours = row(OURS, ratio, tasks, model, layout=layout, repair=repair)
        rows.append(
            [layout, REPAIRS[repair], f"{ratio:.0%}", *(_signed(lead(records, ours, [rival])) for rival in rivals)]
        )
    return table(["layout", "repair", "removed", *rivals], _measured(rows, 3))


def _finalists(records: Records, model: str = MAIN) -> Iterator[str]:
    tasks, pairs = MODEL_TASKS[model], [(OURS, LAYERWISE), *((name, "least_squares") for name in FINALISTS)]
    rows = []
    for name, repair in pairs:
        whole: dict[str, Any] = {"layout": "per_layer", "repair": repair, "rows": 0}
        shares = (_kept(records, row(name, ratio, tasks, model, **whole)) for ratio in ALL_RATIOS)
        rows.append([name, REPAIRS[repair], *shares])
    if rows := _measured(rows, 2):
        yield f"{_heading(model)} The finalists on all test rows\n\n" + quality_text.FINALISTS[model]
        yield table(["criterion", "repair", *(f"{ratio:.0%}" for ratio in ALL_RATIOS)], rows)


def _heading(model: str) -> str:
    """All of the small model is one section."""
    return "###" if model == MAIN else "####"


def _settings(records: Records, model: str = MAIN) -> Iterator[str]:
    tasks = MODEL_TASKS[model]
    best: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}
    rows = []
    for examples in (16, 32, 64):
        few: dict[str, Any] = {"examples": examples, "draw": "balanced"}
        shares = (_kept(records, row(method, 0.5, tasks, model, **best, **few)) for method in (OURS, "wanda"))
        rows.append([f"{examples} examples, class-balanced, 50% removed", *shares])
    for ratio, (calibration, task) in product((0.5, 0.7), SAME_LABELS):
        other: dict[str, Any] = {"calibration": calibration}
        shares = (_kept(records, [slim(model, task, method, ratio, **best, **other)]) for method in (OURS, "wanda"))
        rows.append([f"calibrated on {calibration}, judged on {task}, {ratio:.0%} removed", *shares])
    if rows := _measured(rows, 1):
        yield f"{_heading(model)} Few examples, an unseen domain"
        yield table(["setting", OURS, "wanda"], rows)
    yield from _unlabelled(records, model)


def _unlabelled(records: Records, model: str) -> Iterator[str]:
    names = {"none": "the uncut model's own answers", "labels": "the rows' labels"}
    methods = (OURS, "attribution")
    rows = []
    for ratio, (supervision, name) in product((0.5, 0.7), names.items()):
        best: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares", "supervision": supervision}
        shares = (_kept(records, row(method, ratio, MODEL_TASKS[model], model, **best)) for method in methods)
        rows.append([f"{ratio:.0%} removed, {name}", *shares])
    if rows[0][1] != NOT_YET:
        yield f"{_heading(model)} Rows without labels\n\n" + quality_text.UNSUPERVISED
        yield table(["setting", *methods], rows)


def _choices(records: Records) -> Iterator[str]:
    """How the defaults were chosen; a comparison may be on some of the tasks."""
    cells = [Cell.of(dict(record)) for record in records.values() if record["split"] == "dev" and record["ratio"]]
    judged: dict[Cell, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.model != MAIN, MODEL_TASKS[cell.model].index(cell.task))):
        judged.setdefault(replace(cell, task="", calibration=""), []).append(cell)
    rows = [_choice(records, variant, on) for variant, on in judged.items() if len(on) > 1]
    if rows:
        yield "### Choices, made on train rows\n\n" + quality_text.CHOICES
        header = ["model", "units", "layout", "removed", "criterion", "steps", "repair", "tasks", "kept"]
        yield table(header, sorted(rows, key=lambda line: (line[0] != MAIN, *line[:7])))


def _choice(records: Records, variant: Cell, cells: Sequence[Cell]) -> list[str]:
    everywhere = len(cells) == len(MODEL_TASKS[variant.model])
    return [
        variant.model,
        "+".join(variant.units),
        variant.layout,
        f"{variant.ratio:.0%}",
        variant.method,
        str(variant.steps),
        REPAIR_NAMES[variant.repair],
        "all" if everywhere else ", ".join(cell.task for cell in cells),
        _kept(records, cells),
    ]


def _tasks(records: Records) -> Iterator[str]:
    yield "### Task by task\n\n" + quality_text.TASKS
    for task in TASKS:
        yield from _task(records, "smollm2", task, list(REPAIRS))


def _task(records: Records, model: str, task: str, repairs: Sequence[str]) -> Iterator[str]:
    whole = records.get(dense(model, task).key)
    if whole is None:
        return
    yield f"**{task}**: dense {_accuracy(whole)}, majority {whole['majority']:.3f}"
    rows = []
    for layout, repair, method in product(LAYOUTS, repairs, METHODS):
        cells = [slim(model, task, method, ratio, layout=layout, repair=repair) for ratio in RATIOS]
        values = [_accuracy(records[cell.key]) if cell.key in records else NOT_YET for cell in cells]
        if set(values) != {NOT_YET}:
            rows.append([layout, REPAIRS[repair], method, *values])
    yield table(["layout", "repair", "criterion", *(f"{ratio:.0%} removed" for ratio in RATIOS)], rows)


def _t5(records: Records) -> Iterator[str]:
    rows = [
        [layout, name, method, *(_kept(records, row(method, ratio, T5_TASKS, "t5", **choices)) for ratio in RATIOS)]
        for layout, (repair, name), method in product(LAYOUTS, REPAIRS.items(), METHODS)
        for choices in [{"layout": layout, "repair": repair}]
    ]
    rows += [
        [layout, REPAIRS[repair], *line]
        for layout, repair in product(LAYOUTS, REPAIRS)
        for line in _variants(records, [(repair, ratio) for ratio in RATIOS], "t5", layout=layout)
    ]
    if rows := _measured(rows, 3):
        yield "### The small T5\n\n" + quality_text.T5
        yield table(["layout", "repair", "criterion", *(f"{ratio:.0%} removed" for ratio in RATIOS)], rows)
        yield f"By how many points `{OURS}` leads there:"
        yield _lead_table(records, T5_TASKS, "t5")
        yield from _finalists(records, "t5")
        yield from _settings(records, "t5")
        yield from _seconds(records, "t5")
        for task in T5_TASKS:
            yield from _task(records, "t5", task, ("least_squares",))


def _seconds(records: Records, model: str = MAIN) -> Iterator[str]:
    of_model = [record for record in records.values() if (record["split"], record["model"]) == (TIMED, model)]
    timed = {str(record["method"]): record["seconds"] for record in of_model}
    if DENSE in timed:
        yield f"{_heading(model)} Seconds\n\n" + quality_text.SECONDS[model]
        floor = timed.pop(DENSE)
        rows = [["a forward pass, nothing else", f"{floor:.2f}", "1.00"]]
        rows += [[name, f"{value:.2f}", f"{value / floor:.2f}"] for name, value in timed.items()]
        yield table(["criterion", "seconds", "forward passes"], rows)


def _measured(rows: list[list[str]], names: int) -> list[list[str]]:
    """The rows that show anything behind their first `names` columns."""
    return [line for line in rows if set(line[names:]) != {NOT_YET}]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or that there is nothing to show yet."""
    if not rows:
        return "Not measured yet."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kept(records: Records, cells: Sequence[Cell]) -> str:
    share = kept(records, cells)
    return NOT_YET if share is None else f"{share * 100:.1f} ± {half_width(records, cells) * 100:.1f}"


def _mean_kept(records: Records, several: Sequence[Sequence[Cell]]) -> str:
    shares = [kept(records, cells) for cells in several]
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known) * 100:.1f}" if len(known) == len(shares) else NOT_YET


def _accuracy(record: Any) -> str:
    raw, calibrated = record["accuracy"], record["calibrated"]
    return f"{calibrated['value']:.3f} [{calibrated['low']:.3f}, {calibrated['high']:.3f}] (raw {raw['value']:.3f})"


def _signed(value: float | None) -> str:
    return NOT_YET if value is None else f"{value:+.1f}"
