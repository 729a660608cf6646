"""Seconds, peak memory and kept accuracy of other pruning libraries beside ours, on the same rows by the same judge.

    .venv/bin/python benchmarks/peers.py [--quick] [--tasks sst2 ...] [--shared DIRECTORY]

SmolLM2-135M-Instruct with the multi-task adapter loses 30, 50 and 70 % of its FFN neurons: the same share of every
layer, or by one rank over all layers. Each method gets the same 256 calibration rows; 200 test rows judge, with label
offsets that are fitted on the calibration rows. The library `captum` attributes layer by layer; Torch-Pruning cuts by
its own pruner, as its examples for language models do: one step, and the mean over the weights of a group. "Weight
times its gradient" is the first-order Taylor form of LLM-Pruner and GISP, from the gradients of all weights. They have
no repair; what a repair gives them is in `quality.py`.

Every pair of a method and a task runs in a process of its own on one thread. `seconds` is the processor time of the
pass over the rows, `slim_seconds` that of one selection, repair and cut, `peak_mib` the peak memory of the process
until the pass ends, with the model and the libraries; `floor` is a process that only computes the margin of each row
and the gradients of the activations. Measured pairs are written to results/peers.json at once, and a later run
continues. The last line is one JSON object: for each method the mean of the accuracy in percent of the dense model's,
at 50 % and the same share of every layer.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import torch
from transformers.utils import logging

from benchmarks.attribution import backward
from benchmarks.parts.peers import PEERS, Measured
from benchmarks.parts.quality.cells import TASKS
from benchmarks.parts.quality.inputs import SOURCES
from benchmarks.parts.quality.measure import Bench, Rows, judge
from service.contract.options import Scope
from service.settings import Settings
from worker.slimming.scoring.attribution import prepared
from worker.slimming.scoring.objectives import token_scores

RESULT = ROOT / "benchmarks" / "results" / "peers.json"
MODEL, FLOOR, DENSE = "smollm2", "floor", "dense"
RATIOS, SCOPES = (0.3, 0.5, 0.7), (Scope.layer, Scope.all)
CALIBRATION, EVALUATION = 256, 200
QUICK: dict[str, Any] = {"tasks": ["sst2"], "ratios": (0.5,), "scopes": (Scope.layer,), "rows": (8, 32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one task, ratio and scope, 8 rows")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    options = parser.parse_args()
    plan = QUICK if options.quick else {"tasks": options.tasks, "ratios": RATIOS, "scopes": SCOPES}
    found = {} if options.quick or not RESULT.exists() else json.loads(RESULT.read_bytes())
    rows = plan.get("rows", (CALIBRATION, EVALUATION))
    for task in plan["tasks"]:
        for name in (FLOOR, *PEERS):
            if name not in found.get(task, {}):
                measured = in_a_process(name, task, rows, plan["ratios"], plan["scopes"], options.shared.resolve())
                found.setdefault(task, {})[name] = measured
                print(f"{task}, {name}: {json.dumps(measured)}", file=sys.stderr, flush=True)
                if not options.quick:
                    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found, plan["ratios"], plan["scopes"]))
    print(json.dumps(kept_at_half(found)))


def in_a_process(*arguments: Any) -> dict[str, Any]:
    """The result of `measure` in a process of its own, whose peak memory is that of the method alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: dict[str, Any] = pool.apply(measure, arguments)
    return found


def measure(
    name: str, task: str, rows: tuple[int, int], ratios: tuple[float, ...], scopes: tuple[Scope, ...], shared: Path
) -> dict[str, Any]:
    """Seconds, peak memory and accuracies of one method on one task."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    bench = Bench({MODEL: SOURCES[MODEL](shared, Settings().state)}, shared / "data", Settings().state)
    model = bench.loaded(MODEL).model
    calibration, test = (
        bench.examples(MODEL, task, split, count, 0, "natural", "labels")
        for split, count in (("train", rows[0]), ("test", rows[1]))
    )
    start = time.process_time()
    measured = floor(model, calibration) if name == FLOOR else PEERS[name].measure(model, calibration.batches)
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, Any] = {"seconds": round(seconds, 2), "peak_mib": round(peak / 1024)}
    if name == FLOOR:
        return found | {DENSE: accuracy(model, test, calibration)}
    slim_seconds = []
    for scope in scopes:
        for ratio in ratios:
            start = time.process_time()
            slim = PEERS[name].slim(model, calibration.batches, measured, ratio, scope)
            slim_seconds.append(time.process_time() - start)
            removed = 1 - sum(each.numel() for each in slim.parameters()) / sum(
                each.numel() for each in model.parameters()
            )
            found[key(scope, ratio)] = accuracy(slim, test, calibration) | {"removed": round(removed, 4)}
    return found | {"slim_seconds": round(median(slim_seconds), 2)}


def floor(model: Any, calibration: Rows) -> Measured:
    """A forward pass of all rows, and a backward pass to the first activation whose gradient attribution needs."""
    with prepared(model):
        for item in calibration.batches:
            backward(model, item, token_scores)
    return Measured()


def accuracy(model: Any, test: Rows, calibration: Rows) -> dict[str, float]:
    """Accuracy with label offsets and its interval, and without offsets."""
    found = judge(model, test, calibration)
    assert found.value is not None, "the task has labels"
    assert found.raw is not None
    return {"value": found.value.value, "low": found.value.low, "high": found.value.high, "raw": found.raw.value}


def key(scope: Scope, ratio: float) -> str:
    return f"{scope} {ratio:.0%}"


def table(found: dict[str, Any], ratios: tuple[float, ...], scopes: tuple[Scope, ...]) -> str:
    """Markdown: seconds and memory over the floor's, and the mean share of the dense accuracy, over the tasks."""
    columns = [key(scope, ratio) for scope in scopes for ratio in ratios]
    lines = [
        f"| method | pass, times the floor | slim, s | peak, times the floor | {' | '.join(columns)} |",
        "| --- " * (4 + len(columns)) + "|",
    ]
    for name in PEERS:
        tasks = [each for each in found.values() if name in each]
        if tasks:
            costs = [
                f"{fmean(each[name][what] / each[FLOOR][what] for each in tasks):.2f}"
                for what in ("seconds", "peak_mib")
            ]
            slim = f"{fmean(each[name]['slim_seconds'] for each in tasks):.1f}"
            shares = [f"{fmean(kept(each, name, column) for each in tasks):.1f}" for column in columns]
            lines.append(f"| {name} | {costs[0]} | {slim} | {costs[1]} | {' | '.join(shares)} |")
    return "\n".join(lines)


def kept(task: dict[str, Any], name: str, column: str) -> float:
    """Accuracy in percent of the dense model's."""
    share: float = 100 * task[name][column]["value"] / task[FLOOR][DENSE]["value"]
    return share


def kept_at_half(found: dict[str, Any]) -> dict[str, float]:
    """Method -> mean share that it keeps at 50 % with the same share of every layer."""
    column = key(Scope.layer, 0.5)
    return {
        name: round(fmean(kept(each, name, column) for each in found.values() if name in each), 1)
        for name in PEERS
        if any(name in each for each in found.values())
    }


if __name__ == "__main__":
    main()
