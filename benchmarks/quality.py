"""How much of a task a slimmed model keeps: every criterion, repair and layout side by side on real rows.

    .venv/bin/python benchmarks/quality.py [--quick | --dev | --grid | --finalists | --settings | --seconds | --page]

Every cell is written to quality.json the moment it is measured; a run that was interrupted goes on where it stopped.
`--dev` judges candidates for the defaults on train rows that no calibration sees; `--page` measures nothing. All but
`--quick` write RESULTS.md and its figure from quality.json.

The last line is one JSON object, for the default criterion and repair with per-layer widths: kept_at_* is the mean over
six tasks of the calibrated accuracy as a share of the uncut model's, on all test rows once `--finalists` has judged
them, else on 200 a task; lead_at_* the points of it by which they are ahead of the best of the five baselines with the
same repair and layout on 200 rows a task; null until measured.
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
sys.path.insert(0, str(ROOT))  # a script sees only its own directory

from benchmarks.quality_bench import cells as quality_cells  # noqa: E402
from benchmarks.quality_bench import page, summary  # noqa: E402
from benchmarks.quality_bench.cells import MODEL_TASKS, Cell  # noqa: E402
from benchmarks.quality_bench.inputs import SOURCES  # noqa: E402
from benchmarks.quality_bench.measure import Bench  # noqa: E402
from benchmarks.quality_bench.store import Store  # noqa: E402
from service.settings import Settings  # noqa: E402

RESULTS = ROOT / "benchmarks" / "quality.json"
PLANS: dict[str, Callable[[str, Sequence[str]], list[Cell]]] = {
    "dev": lambda model, tasks: list(quality_cells.dev(model, tasks)),
    "grid": lambda model, tasks: list(quality_cells.grid(model, tasks)),
    "finalists": lambda model, tasks: list(quality_cells.finalists(model, tasks)),
    "settings": lambda model, tasks: list(quality_cells.settings(model, tasks)),
    "seconds": lambda model, tasks: list(quality_cells.seconds(model, tasks)),
    "quick": lambda model, _: quality_cells.quick(model),
    "page": lambda *_: [],
}


def main() -> None:
    arguments = parse()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        quick = arguments.plan == "quick"
        store = Store(Path(scratch) / RESULTS.name if quick else RESULTS)
        state = Path(scratch) if quick or arguments.fresh else Settings().state
        bench = Bench(
            {name: SOURCES[name](arguments.data, Settings().state) for name in arguments.models},
            arguments.data / "data",
            state / "cache" / "scores",
        )
        planned = [cell for name in arguments.models for cell in PLANS[arguments.plan](name, MODEL_TASKS[name])]
        cells = [cell for cell in planned if not arguments.tasks or cell.task in arguments.tasks]
        measure(bench, cells, store)
        if not quick and not arguments.tasks:
            page.write(store.records, RESULTS.parent)
        figures = summary.figures(store.records)
        print(json.dumps(figures | summary.quick_figures(store.records) if quick else figures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = parser.add_mutually_exclusive_group()
    for name in PLANS:
        plans.add_argument(f"--{name}", dest="plan", action="store_const", const=name)
    parser.set_defaults(plan="grid")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    parser.add_argument("--models", nargs="+", default=["smollm2"], choices=list(SOURCES))
    parser.add_argument("--tasks", nargs="+", help="only these; runs for different tasks may share quality.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fresh", action="store_true", help="do not read scores that an earlier run has left")
    return parser.parse_args()


def measure(bench: Bench, cells: Sequence[Cell], store: Store) -> None:
    """Measure what the store lacks, in order."""
    todo = quality_cells.left(cells, set(store.records))
    for number, cell in enumerate(todo, start=1):
        if store.has(cell):
            continue
        start = time.perf_counter()
        record = bench.measure(cell)
        store.put(cell, record)
        figure = record["calibrated"]["value"] if "calibrated" in record else record["seconds"]
        print(f"{number}/{len(todo)} {cell.key} {figure:.3f} {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
