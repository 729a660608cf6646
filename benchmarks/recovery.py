"""What a recovery gains: SmolLM2 with the multi-task adapter, cut for one task and then trained for a short time.

    .venv/bin/python benchmarks/recovery.py [--tasks sst2 mnli] [--split dev] [--recoveries '[{"method": "lora"}]']

70 % of the feed-forward and attention parameters are removed, with a width for each layer and the default criterion and
repair, for 256 calibration rows, of which a fifth is held out from repair and training. The time of a training is that
of its one thread, without that of other programs on the machine. The figures are on 200 test rows, or with `--split
dev` on train rows that are no calibration rows, on which defaults were chosen. An entry of `--recoveries` has the
fields of `recovery` in a request. The last line is one JSON object, which is also written to results/recovery.json for
test rows.
"""

import argparse
import copy
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import torch
from transformers import PreTrainedModel

from benchmarks.parts.quality.cells import LAYERWISE, OURS, Cell, dense, slim
from benchmarks.parts.quality.inputs import SOURCES
from benchmarks.parts.quality.measure import TOKENS_PER_BATCH, Bench, Rows, judge, objective
from benchmarks.parts.quality.measurement import Measurement
from service.contract.request.recovery import Recovery, weight_of_labels
from service.settings import Settings as ServiceSettings
from worker.checkpoints.loading import LoadedModel
from worker.data import batching
from worker.evaluation import answer_scores
from worker.recovery.recovered import Recovered, TrainingRows, recover
from worker.recovery.rows import StoredScores, TrainingTask, split
from worker.recovery.training import Settings
from worker.slimming.architectures import architecture_of
from worker.slimming.recovery.losses import LOSSES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.surgery import slicing

RESULT = ROOT / "benchmarks" / "results" / "recovery.json"
MODEL, RATIO, SEED = "smollm2", 0.7, 0
DEFAULTS = [{"method": "lora"}, {"method": "distillation"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mnli"])
    parser.add_argument("--split", choices=["test", "dev"], default="test")
    parser.add_argument("--recoveries", type=json.loads, default=DEFAULTS)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    state = ServiceSettings().state
    bench = Bench({MODEL: SOURCES[MODEL](options.shared, state)}, options.shared / "data", state / "recovery")
    found: dict[str, Any] = {}
    for task in options.tasks:
        found[task] = measure(bench, cell(task, options.split), [Recovery(**each) for each in options.recoveries])
    if options.split == "test":
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({"split": options.split, "tasks": found}))


def cell(task: str, split_name: str) -> Cell:
    """The cell of the quality benchmark that is recovered."""
    return slim(MODEL, task, OURS, RATIO, split=split_name, layout="per_layer", repair=LAYERWISE)


def measure(bench: Bench, cut: Cell, recoveries: list[Recovery]) -> dict[str, Any]:
    """The metric of the dense model, of the slim one and of it after each recovery."""
    judged = bench.examples(MODEL, cut.task, cut.split, cut.rows, 0, "natural", "labels")
    rows = bench.examples(MODEL, cut.task, "train", cut.examples, cut.seed, cut.draw, cut.supervision)
    whole = bench.loaded(MODEL)
    pruned = replace(whole, model=repaired_and_cut(bench, cut, rows))
    found: dict[str, Any] = {
        "dense": figures(bench.measure(dense(MODEL, cut.task, cut.split))),
        "slim": figures(judge(pruned.model, judged, rows)),
        "recovered": [],
    }
    print(json.dumps({cut.task: found}), flush=True)
    for recovery in recoveries:
        trained = train(whole, pruned, rows, recovery)
        measured = figures(judge(trained.loaded.model, judged, rows))
        found["recovered"].append(measured | described(recovery, trained))
        print(json.dumps({cut.task: found["recovered"][-1]}), flush=True)
    return found


def repaired_and_cut(bench: Bench, cut: Cell, rows: Rows) -> PreTrainedModel:
    """The slim model, repaired as in a job with a recovery: on the calibration rows that are not held out."""
    model, kept = copy.deepcopy(bench.loaded(MODEL).model), bench.kept(cut)
    architecture = architecture_of(model)
    seen = [rows.examples[row] for row in split(rows.examples, None, SEED).train]
    batches = batching.batches(seen, rows.padding, TOKENS_PER_BATCH)
    repair(RepairInput(model, architecture, kept, CalibrationBatches(batches, objective(rows))), cut.repair)
    slicing.cut(model, architecture, kept, cut.layout)
    return model


def train(whole: LoadedModel, pruned: LoadedModel, rows: Rows, recovery: Recovery) -> Recovered:
    """The recovered model, as a job trains it."""
    weight = weight_of_labels(recovery)
    teacher = StoredScores(answer_scores.score(whole.model, rows.batches, lambda done: None)) if weight < 1 else None
    task = TrainingTask(rows.examples, rows.padding, LOSSES["classification"], weight, teacher)
    settings = Settings(
        learning_rate=recovery.learning_rate,
        epochs=recovery.epochs,
        steps=recovery.steps,
        batch_size=recovery.batch_size,
        seconds=recovery.seconds,
        seed=SEED,
        tokens_per_batch=TOKENS_PER_BATCH,
    )
    trained = TrainingRows([task], [split(rows.examples, recovery.rows, SEED)])
    return recover(pruned, trained, rows.batches[-1].inputs, recovery.rank, settings, ignore, time.process_time)


def ignore(done: int, total: int) -> None:
    """The progress of a training that nobody waits for."""


def figures(found: Measurement) -> dict[str, Any]:
    """The metric with label offsets, its interval, and the one without."""
    assert found.value is not None
    return found.value.model_dump() | {"raw": found.raw and found.raw.value}


def described(recovery: Recovery, trained: Recovered) -> dict[str, Any]:
    """The fields of the request that were set, and what the training did."""
    training = trained.training
    return {
        "recovery": recovery.model_dump(mode="json", exclude_unset=True),
        "losses": [(point.step, round(point.held_out, 4)) for point in training.losses],
        "steps": training.steps,
        "best_step": training.best_step,
        "stopped_by": training.stopped_by.value,
        "seconds": round(training.seconds, 1),
    }


if __name__ == "__main__":
    main()
