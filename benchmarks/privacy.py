"""What a slim model keeps if it is calibrated on private rows, by the budget of each token.

    .venv/bin/python benchmarks/privacy.py [--tasks sst2 ag_news] [--shared DIRECTORY]

SmolLM2-135M-Instruct with the multi-task adapter loses half of its feed-forward and attention parameters, with
per-layer widths, the default criterion and the default repair. It is calibrated on train rows that `taskslim privatise`
would write with the embedding table of the base model, and judged on test rows as they are. Label offsets are fitted on
the private rows too. In the series `labels` labels are made private with the smaller of the token's budget and 4; in
the series `none` no label is sent, and the dense model's own answers to the private texts stand for them. The random
numbers have a seed, so that a run can be repeated; the rows are public. Each measured point is written to
results/privacy.json at once, and a later run measures the others.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import torch

from benchmarks.parts.quality import inputs
from benchmarks.parts.quality.measure import TOKENS_PER_BATCH, Rows, answered, judge
from service.contract.request.task import ModelSource
from service.privacy.columns import columns_of
from service.privacy.mechanisms import MechanismName
from service.privacy.model_tokens import read_model_tokens
from service.privacy.private_rows import PrivateRows, make_private, mechanism_of
from service.privacy.statement import budgets
from service.privacy.uniform_numbers import from_seed
from service.rows.labels import with_named_labels
from service.rows.row import Row
from service.settings import Settings
from worker.checkpoints.loading import load_model
from worker.slimming import selection
from worker.slimming.architectures import architecture_of
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.selection import Rules
from worker.slimming.surgery import slicing
from worker.slimming.units.locating import locate
from worker.stages.task_model import encode, worded

RESULT = ROOT / "benchmarks" / "results" / "privacy.json"
SHARED = ROOT.parent / "shared"
CALIBRATION, EVALUATION, RATIO, SEED = 128, 200, 0.5, 0
BUDGETS = (math.inf, 16, 1, 32, 8, 4)  # of a token; in the order of measuring, the most informative first
MOST_OF_A_LABEL = 4
UNITS, LAYOUT, CRITERION, REPAIR, OBJECTIVE = (
    ("ffn", "heads"),
    "per_layer",
    "surgeon",
    "least_squares_layerwise",
    "margin",
)


@dataclass(frozen=True)
class Point:
    """One measurement: the task, what stands for right answers, the mechanism, and the budget of a token."""

    task: str
    supervision: str
    mechanism: MechanismName
    epsilon: float

    @property
    def key(self) -> str:
        """The name of the point in the file."""
        return f"{self.task}, {self.supervision}, {self.mechanism}, {self.epsilon:g}"

    @property
    def label_epsilon(self) -> float | None:
        """The budget of a label; None where no label is sent."""
        return min(self.epsilon, MOST_OF_A_LABEL) if self.supervision == "labels" else None


class Bench:
    """The model and its tokens, read at their first use."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.source = inputs.smollm2(shared, Settings().state)

    @cached_property
    def loaded(self) -> Any:
        """The dense model."""
        return load_model(self.source.directory, device=torch.device("cpu"), adapter=self.source.adapter)

    @cached_property
    def tokens(self) -> Any:
        """The tokens of the base model, which is public."""
        return read_model_tokens(ModelSource(uri=self.source.directory.resolve().as_uri()))

    def dense(self, task: str) -> dict[str, Any]:
        """The figures of the dense model."""
        rows = self.rows(task, "train", CALIBRATION)
        return figures(judge(self.loaded.model, self.encoded(task, self.test(task)), self.encoded(task, rows)))

    def measure(self, point: Point) -> dict[str, Any]:
        """The figures of the slim model that is calibrated on private rows."""
        start, rows = time.perf_counter(), self.rows(point.task, "train", CALIBRATION)
        facts: dict[str, Any] = {}
        if math.isfinite(point.epsilon):
            made, costs = self.private(point, rows)
            rows = [replace(row, values=values) for row, values in zip(rows, made.rows, strict=True)]
            facts = {
                "unchanged": round(made.unchanged.tokens / sum(made.tokens), 4),
                "rare_unchanged": round(made.unchanged.rare_unchanged / made.unchanged.rare_tokens, 4),
                "row_epsilon": round(median(costs), 1),
            }
        calibration = self.encoded(point.task, rows, supervision=point.supervision)
        model = self.slim(calibration)
        found = figures(judge(model, self.encoded(point.task, self.test(point.task)), calibration))
        return found | facts | {"seconds": round(time.perf_counter() - start)}

    def private(self, point: Point, rows: Sequence[Row]) -> tuple[PrivateRows, list[float]]:
        """The private rows, and what each costs."""
        task = inputs.task(self.source, point.task, self.shared / "data")
        columns = columns_of(task, answered=point.supervision == "labels")
        mechanism = mechanism_of(point.mechanism, self.tokens.space, point.epsilon)
        named = with_named_labels(rows, task)
        made = make_private(named, columns, self.tokens, mechanism, point.label_epsilon, from_seed(SEED), rare_rows=2)
        return made, budgets(made, mechanism, point.label_epsilon)

    def slim(self, rows: Rows) -> Any:
        """The slim model, repaired and cut by what these rows show."""
        model = copy.deepcopy(self.loaded.model)
        architecture = architecture_of(model)
        scored = attribution.score(model, architecture, UNITS, rows.batches, CRITERION, Options(objective=OBJECTIVE))
        rules = Rules("global", LAYOUT, CRITERIA[CRITERION].normalisation)
        kept = selection.select(scored.scores, locate(model, architecture, UNITS), RATIO, 1, rules)
        calibration = CalibrationBatches(rows.batches, OBJECTIVE)
        moments = None if scored.moments is None else dict(scored.moments)
        repair(RepairInput(model, architecture, kept, calibration, moments), REPAIR)
        slicing.cut(model, architecture, kept, LAYOUT)
        return model

    def rows(self, task: str, split: str, count: int) -> list[Row]:
        """Rows of a split as they are."""
        return inputs.rows(self.shared / "data" / task, split, count, SEED, "natural")

    def test(self, task: str) -> list[Row]:
        """The evaluation rows."""
        return self.rows(task, "test", EVALUATION)

    def encoded(self, task: str, rows: Sequence[Row], supervision: str = "labels") -> Rows:
        """The rows as tokens; without labels, with the answers of the dense model in their place."""
        wording, padding = worded(self.loaded, inputs.task(self.source, task, self.shared / "data"), None)
        if supervision == "none":  # a label that is not read
            first = next(iter(wording.task.labels or {}))
            rows = [replace(row, values=row.values | {"label": first}) for row in rows]
        found = encode(with_named_labels(rows, wording.task), "task.calibration", wording, padding, TOKENS_PER_BATCH)
        batches = found.batches if supervision == "labels" else answered(self.loaded.model, found.batches)
        return Rows(found.examples, batches, wording, padding)


def figures(measurement: Any) -> dict[str, Any]:
    """The accuracy with label offsets, its interval, and the accuracy without."""
    value, raw = measurement.value, measurement.raw
    return {"value": value.value, "low": value.low, "high": value.high, "raw": raw.value}


def points(tasks: Sequence[str]) -> list[Point]:
    """All points, the most informative first."""
    exponential, adaptive = MechanismName.exponential, MechanismName.adaptive
    series = [("labels", exponential), ("none", exponential), ("labels", adaptive)]
    return [
        Point(task, *each, epsilon) for each, epsilon, task in product(series, BUDGETS, tasks) if is_new(*each, epsilon)
    ]


def is_new(supervision: str, mechanism: MechanismName, epsilon: float) -> bool:
    """Whether the point is no repetition: without a budget all mechanisms leave the rows as they are."""
    return math.isfinite(epsilon) or mechanism is MechanismName.exponential


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "ag_news"])
    parser.add_argument("--shared", type=Path, default=SHARED)
    options = parser.parse_args()
    bench = Bench(options.shared.resolve())
    known: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    measured = {f"{task}, dense": partial(bench.dense, task) for task in options.tasks}
    measured |= {point.key: partial(bench.measure, point) for point in points(options.tasks)}
    for key, measure in measured.items():
        if key not in known:
            known[key] = measure()
            RESULT.write_text(json.dumps(known, indent=2) + "\n")
            print(f"{key}: {json.dumps(known[key])}", flush=True)


if __name__ == "__main__":
    main()
