"""The quality benchmark's tables as Markdown, with headings and captions. Pure functions."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from benchmarks.parts.quality import captions
from benchmarks.parts.quality.captions import LAYOUTS, REPAIR_NAMES, REPAIRS
from benchmarks.parts.quality.cells import (
    ALL_RATIOS,
    BASELINES,
    BEST_BASELINES,
    CONTROLS,
    DENSE,
    DRAWS,
    FEW_ROWS,
    FINALISTS,
    GISP_STEPS,
    HEADLINE_FORMS,
    KINDS_METHODS,
    LAYERWISE,
    MODEL_TASKS,
    OTHER_TASKS,
    OURS,
    RIVALS,
    SAME_LABELS,
    SEEDS,
    T5_TASKS,
    TASKS,
    TEST_ROWS,
    TIMED,
    Cell,
    dense,
    kind_rows,
    of_kind,
    slim,
)
from benchmarks.parts.quality.measurement import Measurement, Measurements
from benchmarks.parts.quality.summary import (
    MAIN,
    Figure,
    dense_of,
    exceeds_constant,
    half_width,
    kept,
    lead,
    mean,
    row,
)

METHODS = (OURS, *RIVALS, *BASELINES, *CONTROLS)
RATIOS = (0.3, 0.5, 0.7)
NOT_MEASURED = "·"
KINDS_MODELS = ("smollm2-written", "minilm", "bert-")  # of tasks of other kinds


def document(measured: Measurements) -> str:
    """Every table that the measurements give."""
    sections = (
        _headline,
        _kinds,
        _generalisation,
        _means,
        _leads,
        _finalists,
        _settings,
        _choices,
        _tasks,
        _seconds,
        _t5,
    )
    return "\n\n".join([captions.INTRODUCTION, *(text for section in sections for text in section(measured))])


def _headline(measured: Measurements) -> Iterator[str]:
    yield f"### Kept by the defaults\n\n{captions.HEADLINE}"
    groups = {"six tasks": TASKS} | {captions.TASK_NAMES[task]: (task,) for task in OTHER_TASKS}
    whole = [_value(measured, [dense("smollm2", task, rows=_test_rows(task)) for task in of]) for of in groups.values()]
    rows = [["", "0%", "the dense model itself", *whole]]
    for (units, layout), ratio, method in product(HEADLINE_FORMS, RATIOS, (OURS, *BEST_BASELINES, "random")):
        form: dict[str, Any] = {"units": units, "layout": layout, "repair": LAYERWISE}
        cells = [
            [slim("smollm2", task, method, ratio, rows=_test_rows(task), **form) for task in of]
            for of in groups.values()
        ]
        rows.append(
            [captions.FORMS[layout], f"{ratio:.0%}", method, *(_kept_of_able(measured, each) for each in cells)]
        )
    yield table(["widths", "removed", "criterion", *groups], _without_empty(rows, 3))


def _kinds(measured: Measurements) -> Iterator[str]:
    rows = []
    models = [(model, task) for model, tasks in MODEL_TASKS.items() if model.startswith(KINDS_MODELS) for task in tasks]
    for (model, task), layout in product(models, LAYOUTS):
        whole = measured.get(dense(model, task, rows=kind_rows(model)))
        if whole is None or whole.value is None:
            continue
        cells = [[of_kind(model, task, method, ratio, layout)] for ratio in RATIOS for method in KINDS_METHODS]
        shares = [_kept(measured, each, "value") for each in cells]
        rows.append([task, f"{whole.metric} {whole.value.value:.3f}", captions.WIDTHS[layout], *shares])
    rows = _without_empty(rows, 3)
    if rows:
        yield f"### Tasks of other kinds\n\n{captions.KINDS}"
        names = [f"{ratio:.0%} {method}" for ratio in RATIOS for method in KINDS_METHODS]
        yield table(["task", "dense model", "widths", *names], rows)


def _kept_of_able(measured: Measurements, cells: Sequence[Cell]) -> str:
    """What is kept with label offsets, of a dense model that is better than a constant answer."""
    able = all(exceeds_constant(measured, cell) for cell in dense_of(cells))
    return _kept(measured, cells, "value") if able else NOT_MEASURED


def _generalisation(measured: Measurements) -> Iterator[str]:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    rows = []
    for task in TASKS:
        whole = [[slim(MAIN, task, OURS, 0.5, **form)]]
        few = [
            [[slim(MAIN, task, OURS, 0.5, examples=count, draw="balanced", seed=draw, **form)] for draw in DRAWS]
            for count in FEW_ROWS
        ]
        values = [_range(measured, draws, "value") for draws in (*few, whole)]
        raw = [_range(measured, draws, "raw") if NOT_MEASURED not in values else NOT_MEASURED for draws in few]
        rows.append([task, *values, *raw])
    if rows := [line for line in rows if NOT_MEASURED not in line]:
        yield f"### Few calibration rows\n\n{captions.FEW_ROWS}"
        counts = [f"{count} rows" for count in FEW_ROWS]
        yield table(["task", *counts, "256 rows", *(f"{count}, raw" for count in counts)], rows)
    yield from _other_domains(measured)


def _other_domains(measured: Measurements) -> Iterator[str]:
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    rows = []
    for other, task in SAME_LABELS:
        cells = [slim(MAIN, task, OURS, 0.5, calibration=calibration, **form) for calibration in (task, other)]
        rows.append([task, other, *(_kept(measured, [cell], "value") for cell in cells)])
    if rows := [line for line in rows if NOT_MEASURED not in line]:
        yield f"### Calibration on another data set\n\n{captions.OTHER_DOMAINS}"
        yield table(["judged on", "other data set", "calibrated on its own rows", "on the other's"], rows)


def _range(measured: Measurements, draws: Sequence[Sequence[Cell]], figure: Figure) -> str:
    """The mean over draws with the least and the most of one; of a single draw its interval."""
    shares = [share * 100 for cells in draws if (share := kept(measured, cells, figure)) is not None]
    if len(draws) == 1:
        return _kept(measured, draws[0], figure)
    if len(shares) < len(draws):
        return NOT_MEASURED
    return f"{sum(shares) / len(shares):.1f} ({min(shares):.1f} to {max(shares):.1f})"


def _test_rows(task: str) -> int:
    """How many test rows the headline has of a task; 0: all."""
    return 0 if task in OTHER_TASKS else TEST_ROWS


def _value(measured: Measurements, cells: Sequence[Cell]) -> str:
    found = mean(measured, cells, "value")
    return NOT_MEASURED if found is None else f"{found:.3f}"


def _means(measured: Measurements) -> Iterator[str]:
    yield "### Criteria, with and without repair\n\n" + captions.MEANS
    yield from _whole(measured, "smollm2", TASKS)
    both = "FFN neurons and key-value groups in one budget"
    yield from _comparison(measured, f"Layout `per_layer`, {both}:", layout="per_layer")
    yield from _comparison(measured, f"Layout `uniform`, {both}:", layout="uniform")
    alone = "Layout `uniform`, FFN neurons alone (the defaults of a job):"
    yield from _comparison(measured, alone, layout="uniform", units=("ffn",))


def _whole(measured: Measurements, model: str, tasks: Sequence[str]) -> Iterator[str]:
    """The dense model's accuracy, and that of a constant answer."""
    cells = [dense(model, task) for task in tasks]
    if (accuracy := mean(measured, cells, "raw")) is not None:
        majority = sum(measured[cell].majority or 0 for cell in cells) / len(cells)
        yield (
            f"The dense model's mean is {accuracy:.3f}; the most frequent label has {majority:.3f} of the rows, "
            f"which is {majority / accuracy * 100:.1f} % of that."
        )


def _comparison(measured: Measurements, title: str, **choices: Any) -> Iterator[str]:
    columns = [
        (repair, ratio)
        for repair, ratio in product(REPAIRS, RATIOS)
        if any(_kept(measured, row(method, ratio, repair=repair, **choices)) != NOT_MEASURED for method in METHODS)
    ]
    rows = [
        [method, *(_kept(measured, row(method, ratio, repair=repair, **choices)) for repair, ratio in columns)]
        for method in METHODS
    ]
    rows += _variants(measured, columns, **choices)
    yield title
    yield table(
        ["criterion", *(f"{ratio:.0%}, {REPAIRS[repair]}" for repair, ratio in columns)], _without_empty(rows, 1)
    )


def _variants(
    measured: Measurements, columns: Sequence[tuple[str, float]], model: str = MAIN, **choices: Any
) -> Iterator[list[str]]:
    """Rows of `random` over its seeds, and of `gisp` in several steps."""

    def cells(method: str, repair: str, ratio: float, **form: int) -> list[Cell]:
        return row(method, ratio, MODEL_TASKS[model], model, repair=repair, **choices, **form)

    seeds = [[cells("random", repair, ratio, seed=seed) for seed in SEEDS] for repair, ratio in columns]
    yield [f"random, mean of seeds {SEEDS[0]} to {SEEDS[-1]}", *(_mean_kept(measured, each) for each in seeds)]
    stepped = (cells("gisp", repair, ratio, steps=GISP_STEPS) for repair, ratio in columns)
    yield [f"gisp, {GISP_STEPS} steps", *(_kept(measured, each) for each in stepped)]


def _leads(measured: Measurements) -> Iterator[str]:
    yield "### Lead of the default\n\n" + captions.LEADS
    yield _lead_table(measured, TASKS, "smollm2")


def _lead_table(measured: Measurements, tasks: Sequence[str], model: str) -> str:
    rivals = (*BASELINES, *RIVALS)
    rows = []
    for layout, repair, ratio in product(LAYOUTS, REPAIRS, RATIOS):
        ours = row(OURS, ratio, tasks, model, layout=layout, repair=repair)
        rows.append(
            [layout, REPAIRS[repair], f"{ratio:.0%}", *(_signed(lead(measured, ours, [rival])) for rival in rivals)]
        )
    return table(["layout", "repair", "removed", *rivals], _without_empty(rows, 3))


def _finalists(measured: Measurements, model: str = MAIN) -> Iterator[str]:
    tasks, pairs = MODEL_TASKS[model], [(OURS, LAYERWISE), *((name, "least_squares") for name in FINALISTS)]
    rows = []
    for name, repair in pairs:
        whole: dict[str, Any] = {"layout": "per_layer", "repair": repair, "rows": 0}
        shares = (_kept(measured, row(name, ratio, tasks, model, **whole)) for ratio in ALL_RATIOS)
        rows.append([name, REPAIRS[repair], *shares])
    if rows := _without_empty(rows, 2):
        yield f"{_heading(model)} Finalists on all test rows\n\n" + captions.FINALISTS[model]
        yield table(["criterion", "repair", *(f"{ratio:.0%}" for ratio in ALL_RATIOS)], rows)


def _heading(model: str) -> str:
    """The level of a heading: tables of other models than the main one are part of that model's section."""
    return "###" if model == MAIN else "####"


def _settings(measured: Measurements, model: str = MAIN) -> Iterator[str]:
    tasks = MODEL_TASKS[model]
    common: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}
    rows = []
    for examples in (16, 32, 64):
        drawn: dict[str, Any] = {"examples": examples, "draw": "balanced"}
        shares = (_kept(measured, row(method, 0.5, tasks, model, **common, **drawn)) for method in (OURS, "wanda"))
        rows.append([f"{examples} examples, class-balanced, 50% removed", *shares])
    for ratio, (calibration, task) in product((0.5, 0.7), SAME_LABELS):
        other: dict[str, Any] = {"calibration": calibration}
        shares = (_kept(measured, [slim(model, task, method, ratio, **common, **other)]) for method in (OURS, "wanda"))
        rows.append([f"calibrated on {calibration}, judged on {task}, {ratio:.0%} removed", *shares])
    if rows := _without_empty(rows, 1):
        yield f"{_heading(model)} Few calibration examples, another domain"
        yield table(["setting", OURS, "wanda"], rows)
    yield from _unlabelled(measured, model)


def _unlabelled(measured: Measurements, model: str) -> Iterator[str]:
    names = {"none": "the dense model's answers", "labels": "the rows' labels"}
    methods = (OURS, "attribution")
    rows = []
    for ratio, (supervision, name) in product((0.5, 0.7), names.items()):
        common: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares", "supervision": supervision}
        shares = (_kept(measured, row(method, ratio, MODEL_TASKS[model], model, **common)) for method in methods)
        rows.append([f"{ratio:.0%} removed, {name}", *shares])
    if rows[0][1] != NOT_MEASURED:
        yield f"{_heading(model)} Calibration rows without labels\n\n" + captions.UNSUPERVISED
        yield table(["setting", *methods], rows)


def _choices(measured: Measurements) -> Iterator[str]:
    """Comparisons on dev rows; some are on a part of the tasks."""
    cells = [cell for cell in measured if cell.split == "dev" and cell.ratio]
    judged: dict[Cell, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.model != MAIN, MODEL_TASKS[cell.model].index(cell.task))):
        judged.setdefault(replace(cell, task="", calibration=""), []).append(cell)
    rows = [_choice(measured, variant, on) for variant, on in judged.items() if len(on) > 1]
    if rows:
        yield "### Choice of the defaults, on train rows\n\n" + captions.CHOICES
        header = ["model", "units", "layout", "removed", "criterion", "steps", "repair", "tasks", "kept"]
        yield table(header, sorted(rows, key=lambda line: (line[0] != MAIN, *line[:7])))


def _choice(measured: Measurements, variant: Cell, cells: Sequence[Cell]) -> list[str]:
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
        _kept(measured, cells),
    ]


def _tasks(measured: Measurements) -> Iterator[str]:
    yield "### Task by task\n\n" + captions.TASKS
    for task in TASKS:
        yield from _task(measured, "smollm2", task, list(REPAIRS))


def _task(measured: Measurements, model: str, task: str, repairs: Sequence[str]) -> Iterator[str]:
    whole = measured.get(dense(model, task))
    if whole is None:
        return
    yield f"**{task}**: dense {_estimate(whole)}, majority {whole.majority:.3f}"
    rows = []
    for layout, repair, method in product(LAYOUTS, repairs, METHODS):
        cells = [slim(model, task, method, ratio, layout=layout, repair=repair) for ratio in RATIOS]
        values = [_estimate(measured[cell]) if cell in measured else NOT_MEASURED for cell in cells]
        if set(values) != {NOT_MEASURED}:
            rows.append([layout, REPAIRS[repair], method, *values])
    yield table(["layout", "repair", "criterion", *(f"{ratio:.0%} removed" for ratio in RATIOS)], rows)


def _t5(measured: Measurements) -> Iterator[str]:
    rows = [
        [layout, name, method, *(_kept(measured, row(method, ratio, T5_TASKS, "t5", **choices)) for ratio in RATIOS)]
        for layout, (repair, name), method in product(LAYOUTS, REPAIRS.items(), METHODS)
        for choices in [{"layout": layout, "repair": repair}]
    ]
    rows += [
        [layout, REPAIRS[repair], *line]
        for layout, repair in product(LAYOUTS, REPAIRS)
        for line in _variants(measured, [(repair, ratio) for ratio in RATIOS], "t5", layout=layout)
    ]
    if rows := _without_empty(rows, 3):
        yield "### The small T5\n\n" + captions.T5
        yield table(["layout", "repair", "criterion", *(f"{ratio:.0%} removed" for ratio in RATIOS)], rows)
        yield f"Lead of `{OURS}` there:"
        yield _lead_table(measured, T5_TASKS, "t5")
        yield from _finalists(measured, "t5")
        yield from _settings(measured, "t5")
        yield from _seconds(measured, "t5")
        for task in T5_TASKS:
            yield from _task(measured, "t5", task, ("least_squares",))


def _seconds(measured: Measurements, model: str = MAIN) -> Iterator[str]:
    timed = {
        cell.method: found.seconds
        for cell, found in measured.items()
        if (cell.split, cell.model) == (TIMED, model) and found.seconds is not None
    }
    if DENSE in timed:
        yield f"{_heading(model)} Seconds\n\n" + captions.SECONDS[model]
        floor = timed.pop(DENSE)
        rows = [["forward pass", f"{floor:.2f}", "1.00"]]
        rows += [[name, f"{value:.2f}", f"{value / floor:.2f}"] for name, value in timed.items()]
        yield table(["criterion", "seconds", "forward passes"], rows)


def _without_empty(rows: list[list[str]], names: int) -> list[list[str]]:
    """The rows that have a figure after their first `names` columns."""
    return [line for line in rows if set(line[names:]) != {NOT_MEASURED}]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or a sentence where it has no rows."""
    if not rows:
        return "Not measured yet."
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kept(measured: Measurements, cells: Sequence[Cell], figure: Figure = "raw") -> str:
    share = kept(measured, cells, figure)
    return NOT_MEASURED if share is None else f"{share * 100:.1f} ± {half_width(measured, cells, figure) * 100:.1f}"


def _mean_kept(measured: Measurements, several: Sequence[Sequence[Cell]]) -> str:
    shares = [kept(measured, cells) for cells in several]
    known = [share for share in shares if share is not None]
    return f"{sum(known) / len(known) * 100:.1f}" if len(known) == len(shares) else NOT_MEASURED


def _estimate(found: Measurement) -> str:
    """raw 0.890 [0.839, 0.926], with label offsets 0.900; only the raw figure where the other one is not measured."""
    assert found.raw is not None
    text = f"raw {found.raw.value:.3f} [{found.raw.low:.3f}, {found.raw.high:.3f}]"
    return f"{text}, with label offsets {found.value.value:.3f}" if found.value else text


def _signed(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:+.1f}"
