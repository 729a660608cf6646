"""The methods of the neighbouring papers on trained models: general ability, unions, rows without labels.

    .venv/bin/python benchmarks/neighbours.py [--quick] [--parts PART ...]

The parts are `selectivity dev`, which chooses the form on dev rows, `selectivity`, `dial`, `union`, `supervision` and
`experts`, for the model that `train_moe.py` has written to `moe` in the state directory. Each cell is written to
results/neighbours.jsonl when it is measured; a run that was interrupted continues where it stopped. The last line is
one JSON object; a figure is null until its cells are measured. `reverse_collapse_at` is the least ratio at which the
reverse of `selectivity` without a repair has lost half of what the dense model has above a constant answer.
`general_dial_gain` is the gain of the other tasks' mean metric at half weight, in points, at half the size.
`private_kept_at_epsilon` has the share of the dense accuracy by the budget of a token, from results/privacy.json.
`recovered_share_at_70` is the share of the lost metric that the default recovery wins back on the tasks of
results/recovery.json. `experts_kept_at_50` is the share of the dense accuracy, by the default criterion, the mean
over four tasks. `recovered_share_at_80` is not measured yet.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.neighbours import tables
from benchmarks.parts.neighbours.cells import Cell, plan
from benchmarks.parts.neighbours.measure import Measurement, Neighbours
from benchmarks.parts.quality.inputs import SOURCES, Source, mixture
from benchmarks.parts.quality.measure import Bench
from service.settings import Settings

RESULTS = ROOT / "benchmarks" / "results" / "neighbours.jsonl"
SMOLLM2_TASKS = {
    "sst2": {"preset": "sst2"},
    "squad_short": {
        "kind": "generation",
        "template": "Context: {text_b}\nQuestion: {text}\nAnswer:",
        "metric": "token_f1",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one task of the small T5, nothing is stored")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / RESULTS.name if arguments.quick else RESULTS
        cells = [cell for cell in plan(quick=arguments.quick) if not arguments.parts or cell.part in arguments.parts]
        found = sources(arguments.data, {cell.model for cell in cells})
        measure(Neighbours(Bench(found, arguments.data / "data", Path(scratch))), cells, path)
        measured = read(path)
    print(tables.document(measured))
    print(json.dumps(tables.figures(measured, RESULTS.parent)))


def sources(data: Path, models: set[str]) -> dict[str, Source]:
    """The models, with the wordings of their tasks. Raises FileNotFoundError without the model of `train_moe.py`."""
    state = Settings().state
    found = {"t5": SOURCES["t5"](data, state)}
    if "moe" in models:
        found["moe"] = mixture(state)
    if "smollm2" in models:
        smollm2 = SOURCES["smollm2"](data, state)
        found["smollm2"] = Source(smollm2.directory, smollm2.adapter, SMOLLM2_TASKS)
    return found


def measure(neighbours: Neighbours, cells: list[Cell], path: Path) -> None:
    """Measure the cells that the file does not have, in order."""
    known = read(path)
    for number, cell in enumerate(cells, start=1):
        if cell in known:
            continue
        start = time.perf_counter()
        found = neighbours.measure(cell)
        with path.open("a") as file:
            file.write(json.dumps(asdict(cell) | asdict(found)) + "\n")
        seconds = time.perf_counter() - start
        print(f"{number}/{len(cells)} {cell.key} {found.metric:.3f} {found.general:.3f} {seconds:.0f} s", flush=True)


def read(path: Path) -> dict[Cell, Measurement]:
    """The measured cells."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    return dict(map(_from_row, rows))


def _from_row(row: dict[str, Any]) -> tuple[Cell, Measurement]:
    of_cell: dict[str, Any] = {field.name: row[field.name] for field in fields(Cell)}
    of_measurement: dict[str, Any] = {name: value for name, value in row.items() if name not in of_cell}
    return Cell(**of_cell | {"tasks": tuple(row["tasks"])}), Measurement(**of_measurement)


if __name__ == "__main__":
    main()
