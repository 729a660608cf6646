"""The cells of the quality benchmark, and its plans: lists of cells in the order in which they are measured.

A cell is one combination of model, task, method, ratio and options. `OURS` is the criterion that this project adds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Any

TASKS = ("sst2", "imdb", "ag_news", "mnli", "qnli", "mrpc")
OTHER_TASKS = ("trec", "subj", "cola", "rte")  # on which no default was chosen
METRICS = {"cola": "matthews"}  # of tasks that accuracy does not judge, as GLUE has it
T5_TASKS = ("ag_news", "trec", "subj", "sst2", "imdb")
HEAD_TASKS = ("snips_slots", "stsb", "goemotions")  # each of a BERT that train_heads.py trains for it
WRITTEN_TASKS = ("snips_frames", "e2e_nlg", "chat_intent")  # of SmolLM2 with the adapter of train_adapter.py
MODEL_TASKS: dict[str, tuple[str, ...]] = {
    "smollm2": TASKS,
    "t5": T5_TASKS,
    "t5-large": TASKS,
    "smollm2-written": WRITTEN_TASKS,
    "minilm": ("stsb",),
    **{f"bert-{task}": (task,) for task in HEAD_TASKS},
}
RATIOS = (0.5, 0.7, 0.3)  # in the order of the plans: the most informative first
ALL_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SEEDS = (0, 1, 2)  # of the random criterion
BLOCKS = ("ffn", "heads")
OURS = "surgeon"
BASELINES = ("wanda", "flap", "random", "activation", "magnitude")
RIVALS = ("attribution", "second_moment", "gisp")
BEST_BASELINES = ("wanda", "activation")  # those that come nearest to OURS with LAYERWISE
FINALISTS = (OURS, "attribution", "activation")  # this project's, the best rival and the best baseline of the grid
GISP_STEPS = 8  # the paper of `gisp` removes units in many small steps
LAYERWISE = "least_squares_layerwise"
# The layouts of the headline with their units: those with which a job keeps most, and those that it has by default.
HEADLINE_FORMS = ((BLOCKS, "per_layer"), (("ffn",), "uniform"))
KINDS_METHODS = (OURS, BEST_BASELINES[0], "random")
REFITTING_REPAIRS = ("least_squares", LAYERWISE)
JOB_DEFAULTS = (("ffn",), "uniform")  # the default units and layout of a job
WITH_BIAS = ("smollm2",)  # models whose feed-forward modules can have a bias
# Units and layouts with which REFITTING_REPAIRS are compared.
COMPARED_FORMS = (JOB_DEFAULTS, (BLOCKS, "uniform"), (BLOCKS, "per_layer"))
DECODERS = ("smollm2", "smollm2-written")  # models whose heads can be removed
CONTROLS = ("attribution_signed", "reverse")
# Name -> a criterion, and other options than its defaults.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "attribution_signed": ("attribution", {"objective": "probability", "example_reduction": "sum"}),
    "attribution_probability": ("attribution", {"objective": "probability"}),
    "attribution_sequence": ("attribution", {"objective": "sequence_probability"}),
    "attribution_log_probability": ("attribution", {"objective": "log_probability"}),
    "attribution_mean_token": ("attribution", {"token_reduction": "mean"}),
    "attribution_max_token": ("attribution", {"token_reduction": "max"}),
    "attribution_absolute": ("attribution", {"sign": "absolute"}),
    "attribution_sum_of_rows": ("attribution", {"example_reduction": "sum"}),
    "surgeon_probability": ("surgeon", {"objective": "probability"}),
    "surgeon_log_probability": ("surgeon", {"objective": "log_probability"}),
}
DENSE = "dense"
TIMED = "timed"  # in place of a split: only the time to score the units is measured
TIMED_ROWS = 48
FEW_ROWS = (16, 32)  # calibration rows of the plan `generalisation`
DRAWS = range(5)  # of those rows
SAME_LABELS = (("imdb", "sst2"), ("sst2", "imdb"))  # (calibration task, evaluated task) with the same labels
CALIBRATION_ROWS = 256
TEST_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """One combination to measure.

    The model is evaluated on rows of `task`; the units are scored on train rows of the task `calibration`.
    """

    model: str
    task: str
    split: str  # test: test rows; dev: train rows that are never used for calibration; or TIMED
    rows: int  # how many rows of the split; 0: all
    method: str
    units: tuple[str, ...] = ()
    layout: str = "uniform"
    repair: str = "none"
    ratio: float = 0.0
    steps: int = 1
    calibration: str = ""
    examples: int = 0
    draw: str = "natural"  # or balanced: the same number of rows for each label
    supervision: str = "labels"  # or none: the dense model's answers replace the labels of the calibration rows
    seed: int = 0

    @property
    def key(self) -> str:
        """The name of the cell: its fields, joined by slashes."""
        return "/".join("+".join(value) if isinstance(value, tuple) else str(value) for value in astuple(self))


def dense(model: str, task: str, split: str = "test", rows: int = TEST_ROWS) -> Cell:
    """The cell of the dense model, which is not cut."""
    return Cell(model, task, split, rows, DENSE)


def slim(model: str, task: str, method: str, ratio: float, **choices: Any) -> Cell:
    """The cell of a slim model, on test rows and calibrated on the same task unless `choices` say otherwise."""
    fixed: dict[str, Any] = {
        "split": "test",
        "rows": TEST_ROWS,
        "units": BLOCKS,
        "calibration": task,
        "examples": CALIBRATION_ROWS,
    }
    return Cell(model=model, task=task, method=method, ratio=ratio, **fixed | choices)


def grid(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """Criterion x repair x layout x task x ratio, in the order of importance."""
    yield from (dense(model, task) for task in tasks)
    main, others = (OURS, "attribution", *BASELINES), (*RIVALS, *CONTROLS)
    for layout, ratio in product(("per_layer", "uniform"), RATIOS):
        yield from _methods_by_tasks(model, tasks, main, ratio, layout, "least_squares")
    for ratio in RATIOS:
        yield from _methods_by_tasks(model, tasks, RIVALS, ratio, "per_layer", "least_squares")
    for ratio in RATIOS:
        yield from _methods_by_tasks(model, tasks, (OURS, *BASELINES, *RIVALS), ratio, "per_layer", LAYERWISE)
    for units, ratio in product((BLOCKS, ("ffn",)), RATIOS):
        yield from _methods_by_tasks(model, tasks, (OURS, *BEST_BASELINES), ratio, "uniform", LAYERWISE, units=units)
    for ratio, repair in product(RATIOS, ("least_squares", "none")):  # the form that every runtime loads
        yield from _methods_by_tasks(model, tasks, main, ratio, "uniform", repair, units=("ffn",))
    for layout, ratio in product(("per_layer", "uniform"), RATIOS):
        yield from _methods_by_tasks(model, tasks, main, ratio, layout, "none")
    for layout, repair, ratio in product(("per_layer", "uniform"), ("least_squares", "none"), RATIOS):
        yield from _methods_by_tasks(model, tasks, others, ratio, layout, repair)
    for seed, ratio in product(SEEDS[1:], RATIOS):
        yield from _methods_by_tasks(model, tasks, ("random",), ratio, "per_layer", "least_squares", seed=seed)
    for ratio in (0.5, 0.7):
        yield from _methods_by_tasks(model, tasks, ("gisp",), ratio, "per_layer", "least_squares", steps=GISP_STEPS)


def headline(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """The default criterion and repair, on `tasks` and OTHER_TASKS, beside `random` and the best baselines."""
    rows = dict.fromkeys(tasks, TEST_ROWS) | dict.fromkeys(OTHER_TASKS, 0)  # the small test sets whole
    yield from (dense(model, task, rows=count) for task, count in rows.items())
    for methods, (units, layout), ratio in product(
        ((OURS,), ("random", *BEST_BASELINES)), HEADLINE_FORMS, (0.5, 0.3, 0.7)
    ):
        for method, (task, count) in product(methods, rows.items()):
            yield slim(model, task, method, ratio, units=units, layout=layout, repair=LAYERWISE, rows=count)


def kinds(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """Tasks of other kinds: the defaults beside `random` and the best baseline, in both layouts.

    Only the feed-forward neurons of an encoder can be removed.
    """
    yield from (dense(model, task, rows=kind_rows(model)) for task in tasks)
    for ratio, layout, method, task in product((0.5, 0.3, 0.7), ("per_layer", "uniform"), KINDS_METHODS, tasks):
        yield of_kind(model, task, method, ratio, layout)


def of_kind(model: str, task: str, method: str, ratio: float, layout: str) -> Cell:
    """A cell of `kinds`."""
    units = {form: units for units, form in HEADLINE_FORMS}[layout] if model in DECODERS else JOB_DEFAULTS[0]
    return slim(model, task, method, ratio, units=units, layout=layout, repair=LAYERWISE, rows=kind_rows(model))


def kind_rows(model: str) -> int:
    """How many test rows the cells of `kinds` have; 0: all. Texts take a hundred times as long as labels."""
    return TEST_ROWS if model == "smollm2-written" else 0


def generalisation(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """The defaults with per-layer widths at a half: on few calibration rows, and on those of another data set."""
    form: dict[str, Any] = {"layout": "per_layer", "repair": LAYERWISE}
    yield from (dense(model, task) for task in tasks)
    yield from (slim(model, task, OURS, 0.5, **form) for task in tasks)
    yield from (slim(model, task, OURS, 0.5, calibration=other, **form) for other, task in SAME_LABELS)
    for draw, examples, task in product(DRAWS, FEW_ROWS, tasks):
        yield slim(model, task, OURS, 0.5, examples=examples, draw="balanced", seed=draw, **form)


def dev(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """Candidates for the defaults, evaluated on dev rows, so that no default is chosen on test rows."""
    yield from (dense(model, task, "dev") for task in tasks)
    common: dict[str, Any] = {"split": "dev", "layout": "per_layer", "repair": "least_squares"}
    for ratio, method, task in product((0.7, 0.5, 0.3), (OURS, "attribution", "second_moment"), tasks):
        yield slim(model, task, method, ratio, **common)
    for (units, layout), ratio, repair, task in product(COMPARED_FORMS, (0.7, 0.5, 0.3), REFITTING_REPAIRS, tasks):
        yield slim(model, task, OURS, ratio, **common | {"units": units, "layout": layout, "repair": repair})
    for ratio, (units, layout), method, task in product(
        (0.7, 0.5, 0.3), (JOB_DEFAULTS, (BLOCKS, "per_layer")), (OURS, "attribution"), tasks
    ):
        yield slim(model, task, method, ratio, **common | {"units": units, "layout": layout, "repair": "none"})
    if model in WITH_BIAS:
        units, layout = JOB_DEFAULTS
        for ratio, method, task in product((0.7, 0.5), (OURS, "attribution"), tasks):
            yield slim(model, task, method, ratio, **common | {"units": units, "layout": layout, "repair": "bias"})
    for method, task in product((OURS, "attribution"), tasks):
        yield slim(model, task, method, 0.7, steps=4, **common)
    for method, ratio, task in product(VARIANTS, (0.7, 0.5), tasks):
        yield slim(model, task, method, ratio, **common)


def _methods_by_tasks(
    model: str, tasks: Sequence[str], methods: Sequence[str], ratio: float, layout: str, repair: str, **choices: Any
) -> Iterator[Cell]:
    """Each method on each task; a method is complete on all tasks before the next one starts."""
    for method, task in product(methods, tasks):
        yield slim(model, task, method, ratio, layout=layout, repair=repair, **choices)


def finalists(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """All test rows: the defaults, and at every ratio the best method of each group."""
    yield from (dense(model, task, rows=0) for task in tasks)
    for ratio in RATIOS:
        yield from _methods_by_tasks(model, tasks, (OURS,), ratio, "per_layer", LAYERWISE, rows=0)
    ratios = (*RATIOS, *(ratio for ratio in ALL_RATIOS if ratio not in RATIOS))
    for some, method, ratio in product((RATIOS, ratios), FINALISTS, ratios):
        if ratio in some:
            yield from _methods_by_tasks(model, tasks, (method,), ratio, "per_layer", "least_squares", rows=0)


def settings(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """Calibration on another data set with the same labels, on few examples, and on rows without labels."""
    yield from (dense(model, task) for task in tasks)
    common: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}
    for ratio, (calibration, task), method in product((0.5, 0.7), SAME_LABELS, (OURS, "wanda")):
        yield slim(model, task, method, ratio, calibration=calibration, **common)
    for task, ratio, method in product(tasks, (0.5, 0.7), (OURS, "attribution")):
        yield slim(model, task, method, ratio, supervision="none", **common)
    for examples, method, task in product((16, 32, 64), (OURS, "wanda"), tasks):
        yield slim(model, task, method, 0.5, examples=examples, draw="balanced", **common)


def seconds(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """The time that each criterion takes to score the units on the same rows, and that of a forward pass of them."""
    yield replace(dense(model, tasks[0], TIMED), examples=TIMED_ROWS)
    for method in (OURS, *RIVALS, *BASELINES):
        yield slim(model, tasks[0], method, 0.0, split=TIMED, rows=0, examples=TIMED_ROWS)


def quick(model: str) -> list[Cell]:
    """Two tasks, 40 rows each, one ratio, two methods."""
    small: dict[str, Any] = {"rows": 40, "examples": 24, "units": ("ffn",)}
    tasks = ("sst2", "ag_news")
    cells = [dense(model, task, rows=40) for task in tasks]
    return cells + [slim(model, task, method, 0.5, **small) for task in tasks for method in (OURS, "random")]
