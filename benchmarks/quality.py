"""The accuracy that slim models keep, for every criterion, repair and layout, on real rows.

    .venv/bin/python benchmarks/quality.py
        [--quick | --headline | --kinds | --generalisation | --dev | --grid | --finalists | --settings | --seconds
        | --tables]

Each cell is written to results/quality.csv.gz when it is measured; a run that was interrupted continues where it
stopped. `--dev` compares candidates for the defaults on train rows that are never used for calibration. `--tables`
measures nothing: it prints every table as Markdown, and needs no model. results/quality.svg is drawn anew by every run
but those with `--quick` or `--tasks`.

The last line is one JSON object. `kept_at_*` is the mean accuracy with label offsets over six tasks, divided by the
dense model's, for the default criterion and repair with per-layer widths on 200 test rows a task. `lead_at_*` is the
difference to the best of `random` and two baselines with the same repair and layout, in percent of the dense accuracy.
`kept_at_50_other_tasks` is the least that one of four other tasks keeps, on all of its test rows, without tasks where
the dense model is no better than a constant answer. `kept_at_*_generation`,
`kept_at_50_ner` and `kept_at_50_embedding` are the least that a task of `--kinds` keeps. Each is null until measured.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality import cells as quality_cells
from benchmarks.parts.quality import figure, summary, tables
from benchmarks.parts.quality.cells import MODEL_TASKS, Cell
from benchmarks.parts.quality.inputs import SOURCES
from benchmarks.parts.quality.measure import Bench
from benchmarks.parts.quality.store import Store
from service.settings import Settings

RESULTS = ROOT / "benchmarks" / "results" / "quality.csv.gz"
FIGURE = ROOT / "benchmarks" / "results" / "quality.svg"
PLANS: dict[str, Callable[[str, Sequence[str]], list[Cell]]] = {
    "dev": lambda model, tasks: list(quality_cells.dev(model, tasks)),
    "headline": lambda model, tasks: list(quality_cells.headline(model, tasks)),
    "kinds": lambda model, tasks: list(quality_cells.kinds(model, tasks)),
    "generalisation": lambda model, tasks: list(quality_cells.generalisation(model, tasks)),
    "grid": lambda model, tasks: list(quality_cells.grid(model, tasks)),
    "finalists": lambda model, tasks: list(quality_cells.finalists(model, tasks)),
    "settings": lambda model, tasks: list(quality_cells.settings(model, tasks)),
    "seconds": lambda model, tasks: list(quality_cells.seconds(model, tasks)),
    "quick": lambda model, _: quality_cells.quick(model),
}
TABLES = "tables"  # in place of a plan
# Plans whose figure needs label offsets, which older cells lack.
WITH_OFFSETS = ("headline", "kinds", "generalisation", "dev")


def main() -> None:
    arguments = parse()
    quick = arguments.plan == "quick"
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / RESULTS.name if quick else RESULTS)
        if arguments.plan == TABLES:
            print(tables.document(store.measurements))
        else:
            measure(prepare(arguments, Path(scratch)), planned(arguments), store, arguments.plan in WITH_OFFSETS)
        if not quick and not arguments.tasks:
            figure.draw(store.measurements, FIGURE)
        figures = summary.figures(store.measurements)
        print(json.dumps(figures | summary.quick_figures(store.measurements) if quick else figures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = parser.add_mutually_exclusive_group()
    for name in (*PLANS, TABLES):
        plans.add_argument(f"--{name}", dest="plan", action="store_const", const=name)
    parser.set_defaults(plan="grid")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    parser.add_argument("--models", nargs="+", default=["smollm2"], choices=list(SOURCES))
    parser.add_argument("--tasks", nargs="+", help="only these; several runs may write to quality.csv.gz at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--fresh", action="store_true", help="measure the scores again, although an earlier run has stored them"
    )
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, scratch: Path) -> Bench:
    """The models and rows that the arguments name; scores are stored in `scratch` unless later runs may use them."""
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    state = scratch if arguments.plan == "quick" or arguments.fresh else Settings().state
    return Bench(
        {name: SOURCES[name](arguments.data, Settings().state) for name in arguments.models},
        arguments.data / "data",
        state / "cache" / "scores",
    )


def planned(arguments: argparse.Namespace) -> list[Cell]:
    """The cells of the plan, for the models and tasks that the arguments name."""
    cells = [cell for name in arguments.models for cell in PLANS[arguments.plan](name, MODEL_TASKS[name])]
    return [cell for cell in cells if not arguments.tasks or cell.task in arguments.tasks]


def measure(bench: Bench, cells: Sequence[Cell], store: Store, with_offsets: bool) -> None:
    """Measure the cells that the store does not have, in order."""
    todo = store.unmeasured(cells, with_offsets)
    for number, cell in enumerate(todo, start=1):
        if store.read_again().has(cell, with_offsets):
            continue
        start = time.perf_counter()
        measurement = bench.measure(cell)
        store.put(cell, measurement)
        found = measurement.value.value if measurement.value else measurement.seconds
        print(f"{number}/{len(todo)} {cell.key} {found:.3f} {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
