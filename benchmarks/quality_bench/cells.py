"""What the quality benchmark measures: its cells, and the order in which they are worth measuring."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import product
from typing import Any, Self

TASKS = ("sst2", "imdb", "ag_news", "mnli", "qnli", "mrpc")
T5_TASKS = ("ag_news", "trec", "subj", "sst2", "imdb")
MODEL_TASKS = {"smollm2": TASKS, "t5": T5_TASKS, "t5-large": TASKS}
RATIOS = (0.5, 0.7, 0.3)  # the most telling first
ALL_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
SEEDS = (0, 1, 2)  # of the random criterion
BLOCKS = ("ffn", "heads")
OURS = "surgeon"
BASELINES = ("wanda", "flap", "random", "activation", "magnitude")
RIVALS = ("attribution", "second_moment", "gisp")
NEAREST = ("wanda", "activation")  # the baselines that come nearest; with equal widths the dearest repair has no other
FINALISTS = (OURS, "attribution", "activation")  # ours, the best rival and the best baseline of the grid
GISP_STEPS = 8  # it is made for many small removals
LAYERWISE = "least_squares_layerwise"
REFITS = ("least_squares", LAYERWISE)
ALONE = (("ffn",), "uniform")  # what a job does unless told otherwise
WITH_BIAS = ("smollm2",)  # whose family can hold one in feed-forward modules
REFITTED = (ALONE, (BLOCKS, "uniform"), (BLOCKS, "per_layer"))  # where they are compared on dev rows
CONTROLS = ("attribution_signed", "reverse")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # criteria with one option changed, but for the paper's form
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
TIMED = "timed"  # in place of a split: nothing is judged, only the time to score is taken
TIMED_ROWS = 48
SAME_LABELS = (("imdb", "sst2"), ("sst2", "imdb"))  # calibrated on, judged on
CALIBRATION_ROWS = 256
TEST_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """One measurement. `task` is judged; `calibration` is the task whose train rows the scores were taken on."""

    model: str
    task: str
    split: str  # test: test rows; dev: train rows that no calibration sees
    rows: int  # of the split; 0: all of it
    method: str
    units: tuple[str, ...] = ()
    layout: str = "uniform"
    repair: str = "none"
    ratio: float = 0.0
    steps: int = 1
    calibration: str = ""
    examples: int = 0
    draw: str = "natural"  # or balanced: the same number of every label
    supervision: str = "labels"  # or none: the uncut model's own answers to the calibration rows
    seed: int = 0

    @property
    def key(self) -> str:
        """Names the cell in quality.json."""
        return "/".join("+".join(value) if isinstance(value, tuple) else str(value) for value in astuple(self))

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """The cell of a record of quality.json, whose other fields are the measurement."""
        named = {field.name: record[field.name] for field in fields(cls)}
        return cls(**named | {"units": tuple(named["units"])})


def dense(model: str, task: str, split: str = "test", rows: int = TEST_ROWS) -> Cell:
    """The uncut model."""
    return Cell(model, task, split, rows, DENSE)


def slim(model: str, task: str, method: str, ratio: float, **choices: Any) -> Cell:
    """A cut model, calibrated on its own task unless `choices` say otherwise."""
    fixed: dict[str, Any] = {
        "split": "test",
        "rows": TEST_ROWS,
        "units": BLOCKS,
        "calibration": task,
        "examples": CALIBRATION_ROWS,
    }
    return Cell(model=model, task=task, method=method, ratio=ratio, **fixed | choices)


def grid(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """{criterion} x {repair} x {layout} x {task} x {ratio}: what decides most comes first."""
    yield from (dense(model, task) for task in tasks)
    main, others = (OURS, "attribution", *BASELINES), (*RIVALS, *CONTROLS)
    for layout, ratio in product(("per_layer", "uniform"), RATIOS):
        yield from _square(model, tasks, main, ratio, layout, "least_squares")
    for ratio in RATIOS:
        yield from _square(model, tasks, RIVALS, ratio, "per_layer", "least_squares")
    for ratio in RATIOS:
        yield from _square(model, tasks, (OURS, *BASELINES, *RIVALS), ratio, "per_layer", LAYERWISE)
    for units, ratio in product((BLOCKS, ("ffn",)), RATIOS):
        yield from _square(model, tasks, (OURS, *NEAREST), ratio, "uniform", LAYERWISE, units=units)
    for ratio, repair in product(RATIOS, ("least_squares", "none")):  # what every runtime loads
        yield from _square(model, tasks, main, ratio, "uniform", repair, units=("ffn",))
    for layout, ratio in product(("per_layer", "uniform"), RATIOS):
        yield from _square(model, tasks, main, ratio, layout, "none")
    for layout, repair, ratio in product(("per_layer", "uniform"), ("least_squares", "none"), RATIOS):
        yield from _square(model, tasks, others, ratio, layout, repair)
    for seed, ratio in product(SEEDS[1:], RATIOS):
        yield from _square(model, tasks, ("random",), ratio, "per_layer", "least_squares", seed=seed)
    for ratio in (0.5, 0.7):
        yield from _square(model, tasks, ("gisp",), ratio, "per_layer", "least_squares", steps=GISP_STEPS)


def dev(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """Candidates for the default, on train rows that no calibration sees; test rows decide nothing."""
    yield from (dense(model, task, "dev") for task in tasks)
    best: dict[str, Any] = {"split": "dev", "layout": "per_layer", "repair": "least_squares"}
    for ratio, method, task in product((0.7, 0.5, 0.3), (OURS, "attribution", "second_moment"), tasks):
        yield slim(model, task, method, ratio, **best)
    for (units, layout), ratio, repair, task in product(REFITTED, (0.7, 0.5, 0.3), REFITS, tasks):
        yield slim(model, task, OURS, ratio, **best | {"units": units, "layout": layout, "repair": repair})
    for ratio, (units, layout), method, task in product(
        (0.7, 0.5, 0.3), (ALONE, (BLOCKS, "per_layer")), (OURS, "attribution"), tasks
    ):
        yield slim(model, task, method, ratio, **best | {"units": units, "layout": layout, "repair": "none"})
    if model in WITH_BIAS:
        units, layout = ALONE
        for ratio, method, task in product((0.7, 0.5), (OURS, "attribution"), tasks):
            yield slim(model, task, method, ratio, **best | {"units": units, "layout": layout, "repair": "bias"})
    for method, task in product((OURS, "attribution"), tasks):
        yield slim(model, task, method, 0.7, steps=4, **best)
    for method, ratio, task in product(VARIANTS, (0.7, 0.5), tasks):
        yield slim(model, task, method, ratio, **best)


def _square(
    model: str, tasks: Sequence[str], methods: Sequence[str], ratio: float, layout: str, repair: str, **choices: Any
) -> Iterator[Cell]:
    """A method is done on all tasks before the next begins."""
    for method, task in product(methods, tasks):
        yield slim(model, task, method, ratio, layout=layout, repair=repair, **choices)


def finalists(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """On all test rows: the defaults, and at every ratio the best of ours, of the rivals and of the baselines."""
    yield from (dense(model, task, rows=0) for task in tasks)
    for ratio in RATIOS:
        yield from _square(model, tasks, (OURS,), ratio, "per_layer", LAYERWISE, rows=0)
    ratios = (*RATIOS, *(ratio for ratio in ALL_RATIOS if ratio not in RATIOS))
    for some, method, ratio in product((RATIOS, ratios), FINALISTS, ratios):
        if ratio in some:
            yield from _square(model, tasks, (method,), ratio, "per_layer", "least_squares", rows=0)


def settings(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """The paper's settings: rows of another data set with the same labels, few examples, rows without labels."""
    yield from (dense(model, task) for task in tasks)
    best: dict[str, Any] = {"layout": "per_layer", "repair": "least_squares"}
    for ratio, (calibration, task), method in product((0.5, 0.7), SAME_LABELS, (OURS, "wanda")):
        yield slim(model, task, method, ratio, calibration=calibration, **best)
    for task, ratio, method in product(tasks, (0.5, 0.7), (OURS, "attribution")):
        yield slim(model, task, method, ratio, supervision="none", **best)
    for examples, method, task in product((16, 32, 64), (OURS, "wanda"), tasks):
        yield slim(model, task, method, 0.5, examples=examples, draw="balanced", **best)


def seconds(model: str, tasks: Sequence[str]) -> Iterator[Cell]:
    """How long each criterion takes to score the same rows, beside a mere forward pass of them."""
    yield replace(dense(model, tasks[0], TIMED), examples=TIMED_ROWS)
    for method in (OURS, *RIVALS, *BASELINES):
        yield slim(model, tasks[0], method, 0, split=TIMED, rows=0, examples=TIMED_ROWS)


def quick(model: str) -> list[Cell]:
    """Two tasks, few rows, one ratio."""
    small: dict[str, Any] = {"rows": 40, "examples": 24, "units": ("ffn",)}
    tasks = ("sst2", "ag_news")
    cells = [dense(model, task, rows=40) for task in tasks]
    return cells + [slim(model, task, method, 0.5, **small) for task in tasks for method in (OURS, "random")]


def left(cells: Sequence[Cell], measured: set[str]) -> list[Cell]:
    """The cells still to be measured, each once, in order."""
    unique = {cell.key: cell for cell in cells}
    return [cell for key, cell in unique.items() if key not in measured]
