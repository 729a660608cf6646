"""Slim times quantised: the dense and the slim model, each as it is and in every precision, on a task.

    .venv/bin/python benchmarks/quantisation.py [--task sst2] [--calibration 96] [--evaluation 200] [--ratio 0.3]
        [--layout uniform] [--precisions int8 w8a8 w4a16] [--adapter DIRECTORY] [--data DIRECTORY] [--state DIRECTORY]

A job of `output.quantise` on SmolLM2-135M with the adapter of `--adapter`, on rows of `--data`. `e2e_nlg` is a
generation task, for which the adapter of benchmarks/train_adapter.py is to be given; without one the model is measured
as it comes. Each row of the table has a metric with its 95 % interval and a size. The last line is one JSON object:
`points_lost` is what the quantised slim model loses against the slim one, by precision.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import torch

from service.cli.demo.request import find_model
from service.contract.answers.job import Stage
from service.contract.answers.result import Metrics, Result
from service.contract.options import Layout, Precision
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.reports.formatting import interval, size
from service.settings import Settings
from service.storage.object_store import Storage
from worker import pipeline
from worker.sources.gguf import convert_gguf

SHARED = ROOT.parent / "shared"
ADAPTER = SHARED / "models/smollm2-135m-multitask-lora"
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {"preset": "sst2"},
    "e2e_nlg": {"kind": "generation", "metric": "chrf", "template": "Meaning: {text}\nSentence:"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="sst2")
    parser.add_argument("--calibration", type=int, default=96)
    parser.add_argument("--evaluation", type=int, default=200)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--layout", choices=list(Layout), default=Layout.uniform)
    parser.add_argument("--precisions", nargs="+", choices=list(Precision), default=list(Precision))
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--state", type=Path, help="keeps the converted model for later runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="quantisation-") as directory:
        result = run(arguments, Path(directory))
    print(table(result))
    print(json.dumps(summary(result)))


class PrintedProgress:
    """Prints each stage as it begins, with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def stage(self, stage: Stage) -> None:
        print(f"{time.monotonic() - self._started:6.0f} s  {stage}", file=sys.stderr, flush=True)

    def advance(self, done: int, total: int, unit: str) -> None:
        """Nothing is printed of the steps within a stage."""


def run(arguments: argparse.Namespace, scratch: Path) -> Result:
    """The result of the job."""
    state = arguments.state or scratch / "state"
    [gguf] = find_model().glob("*.gguf")
    request = request_of(arguments, convert_gguf(gguf, state / "cache/gguf"))
    return pipeline.run(
        new_record(request).model_copy(update={"attempt": 1}),
        settings=Settings(state=state, device="cpu"),
        storage=Storage((scratch / "artifacts").as_uri()),
        progress=PrintedProgress(),
        scratch=scratch,
    )


def request_of(arguments: argparse.Namespace, checkpoint: Path) -> JobRequest:
    """The request of the job."""

    def rows(name: str, limit: int) -> dict[str, Any]:
        return {"uri": (arguments.data / arguments.task / f"{name}.jsonl").resolve().as_uri(), "limit": limit}

    parts = {"calibration": rows("train", arguments.calibration), "evaluation": rows("test", arguments.evaluation)}
    model = {"uri": checkpoint.as_uri(), "adapter_uri": arguments.adapter.resolve().as_uri()}
    return JobRequest.model_validate(
        {
            "model": model,
            "task": TASKS[arguments.task] | parts,
            "target": {"ratio": arguments.ratio},
            "method": {"scope": "global" if arguments.layout == Layout.per_layer else "layer"},
            "output": {"quantise": arguments.precisions, "layout": arguments.layout},
        }
    )


def table(result: Result) -> str:
    """The cells: metric and size of each model."""
    rows = [("not quantised", result.metrics.dense, result.metrics.slim, result.bytes.dense, result.bytes.slim)]
    for each in result.quantised:
        name = each.precision if each.group_size is None else f"{each.precision}, groups of {each.group_size}"
        rows.append((name, each.metrics.dense, each.metrics.slim, each.bytes.dense, each.bytes.slim))
    lines = ["| | dense | | slim | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {value(dense)} | {size(dense_bytes)} | {value(slim)} | {size(slim_bytes)} |"
        for name, dense, slim, dense_bytes, slim_bytes in rows
    ]
    differences = [f"{each.precision} {each.max_abs_logit_difference:.2g}" for each in result.quantised]
    return "\n".join([*lines, "", f"Greatest differences of a logit in the verification: {', '.join(differences)}"])


def value(metrics: Metrics) -> str:
    """The metric with its interval."""
    return interval(metrics.value)


def summary(result: Result) -> dict[str, Any]:
    """The figures of the last line."""
    slim = result.metrics.slim.value.value
    lost = {each.precision: round(100 * (slim - each.metrics.slim.value.value), 2) for each in result.quantised}
    share = {each.precision: round(each.bytes.slim / result.bytes.slim, 3) for each in result.quantised}
    return {"points_lost": lost, "bytes_of_slim": share, "examples": result.metrics.slim.examples}


if __name__ == "__main__":
    main()
