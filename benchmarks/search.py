"""The time that a search with `keep_metric` takes, in this checkout and in another one, in turn.

    .venv/bin/python benchmarks/search.py --against DIRECTORY [--quick] [--rounds 2] [--calibration 64]
        [--evaluation 256] [--floor 0.95] [--criterion attribution]

SmolLM2-135M-Instruct with the multi-task adapter, or with `--quick` a random Llama of 8 layers of 256 channels, is
slimmed for SST-2: FFN neurons and heads, a width for each layer, the default repair. A random model knows nothing, so
that its search may end without a model; it measures as many. The units are scored once; both checkouts then search with
the same scores and the same dense answers, each in a process of its own. Without `--against` this checkout alone is
measured.

The last line is one JSON object: `search_speedup` is the ratio of the medians of the processor seconds, those before to
those after; `clock_speedup` is that of the clock. `kept` says whether both searches kept the same units, and every
model that was measured is listed with its rows and whether it held the floor.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, os.environ.get("SEARCH_CHECKOUT", str(ROOT)))  # Python adds only the directory of the script

import torch

from benchmarks.parts.quality.inputs import SOURCES, Source
from service.contract.answers.job import Stage
from service.contract.answers.result import CurvePoint
from service.contract.errors import TargetUnreachable
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.pipeline_jobs import Recorder
from tests.support.prepared_jobs import PreparedJob, prepare
from tests.support.searches import save_nothing
from tests.support.tiny_models import causal
from worker.search.search import search
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.scores.attribution import attribute, step_ratios
from worker.stages.task_model import Measured, evaluate

TASK = "sst2"
UNITS: dict[str, Any] = {
    "method": {"units": ["ffn", "heads"], "scope": "global"},
    "output": {"layout": "per_layer", "round_to": 1},
}


RANDOM: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Searched:
    """One search: its seconds, the units that it kept, and the models that it measured."""

    cpu: float
    clock: float
    removed: float
    kept: dict[str, list[int]]
    models: list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="a checkout of this repository to compare with")
    parser.add_argument("--quick", action="store_true", help="a random model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--evaluation", type=int, default=256)
    parser.add_argument("--floor", type=float, default=0.95)
    parser.add_argument("--criterion", default="attribution")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)  # of a process that searches
    options = parser.parse_args()
    if options.state is not None:
        print(json.dumps(vars(searched(options, options.state))))
        return
    with tempfile.TemporaryDirectory(prefix="search-") as state:
        found: dict[str, list[Searched]] = {}
        for _ in range(options.rounds):
            for name, checkout in {"before": options.against, "after": ROOT}.items():
                if checkout is not None:
                    found.setdefault(name, []).append(in_a_process(checkout.resolve(), Path(state)))
                    print(f"{name}: {found[name][-1].cpu:.1f} s of the processor", file=sys.stderr, flush=True)
    print(json.dumps(figures(found, options)))


def in_a_process(checkout: Path, state: Path) -> Searched:
    """Search with the code of a checkout. Raises CalledProcessError where it fails."""
    command = [sys.executable, __file__, *sys.argv[1:], "--state", str(state)]
    environment = os.environ | {"SEARCH_CHECKOUT": str(checkout), "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=checkout, stdout=subprocess.PIPE, text=True, check=True)
    return Searched(**json.loads(done.stdout.splitlines()[-1]))


def searched(options: argparse.Namespace, state: Path) -> Searched:
    """Run the search of the job in this process, in one thread."""
    torch.set_num_threads(1)
    source = random_llama(state / "random") if options.quick else SOURCES["smollm2"](options.shared, Settings().state)
    progress = Recorder([Stage.search])
    root = Path(tempfile.mkdtemp(dir=state))
    storage = Storage((root / "artifacts").as_uri())
    job = prepare(new_record(request(source, options)), root, Settings(state=root, device="cpu"), storage, progress)
    dense, path = measured_once(job, state / "measured")
    cpu, clock = time.thread_time(), time.perf_counter()
    candidate, curve = None, list[CurvePoint]()
    try:
        chosen = search(job.context, job.task_model, dense, path, save_nothing)
        candidate, curve = chosen.candidate, chosen.curve
    except TargetUnreachable as error:
        curve = error.curve
    cpu, clock = time.thread_time() - cpu, time.perf_counter() - clock
    return Searched(
        cpu,
        clock,
        removed=candidate.ratio if candidate else 0.0,
        kept={str(site): kept_K.tolist() for site, kept_K in candidate.kept.items()} if candidate else {},
        models=[
            {
                "removed": round(point.ratio, 4),
                "rows": point.examples,
                "share": None if point.share is None else round(point.share.value, 4),
                "meets": point.meets,
            }
            for point in curve
        ],
    )


def random_llama(directory: Path) -> Source:
    """A model that is written once, with words that its tokenizer knows as labels."""
    if not directory.exists():
        checkpoints.save(directory, causal("llama", **RANDOM))
    labels = {name: name for name in ("negative", "positive")}
    return Source(directory, tasks={TASK: {"template": "{text}:", "labels": labels}})


def measured_once(job: PreparedJob, file: Path) -> tuple[Measured, ScorePath]:
    """The dense model's answers and the unit scores, from the file where a process before this one has taken them."""
    if not file.exists():
        dense = evaluate(job.context, job.task_model)
        path = attribute(job.context, job.task_model, step_ratios(job.context.job.request))
        file.write_bytes(pickle.dumps((dense, path)))
    found: tuple[Measured, ScorePath] = pickle.loads(file.read_bytes())
    return found


def request(source: Source, options: argparse.Namespace) -> JobRequest:
    """The job of the search."""
    rows = options.shared / "data" / TASK
    parts = {"calibration": ("train", options.calibration), "evaluation": ("test", options.evaluation)}
    data = {
        part: {"uri": (rows / f"{name}.jsonl").resolve().as_uri(), "limit": limit}
        for part, (name, limit) in parts.items()
    }
    adapter = {"adapter_uri": source.adapter.resolve().as_uri()} if source.adapter else {}
    body = {"model": {"uri": source.directory.resolve().as_uri()} | adapter} | UNITS
    task = (source.tasks[TASK] if source.tasks else {"preset": TASK}) | data
    method = UNITS["method"] | {"criterion": options.criterion}
    target = {"keep_metric": options.floor}
    return JobRequest.model_validate(body | {"task": task, "method": method, "target": target})


def figures(found: dict[str, list[Searched]], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON object."""

    def median(runs: Sequence[Searched], name: str) -> float:
        return statistics.median(float(getattr(each, name)) for each in runs)

    after, before = found["after"], found.get("before")
    speedups = {
        f"{label}_speedup": round(median(before, name) / median(after, name), 2)
        for label, name in (("search", "cpu"), ("clock", "clock"))
        if before
    }
    runs = {
        name: {
            "cpu_seconds": [round(each.cpu, 1) for each in each_run],
            "clock_seconds": [round(each.clock, 1) for each in each_run],
            "removed": round(each_run[0].removed, 4),
            "models": each_run[0].models,
        }
        for name, each_run in found.items()
    }
    same = {"kept": before[0].kept == after[0].kept} if before else {}
    rows = {"quick": options.quick, "calibration_rows": options.calibration, "evaluation_rows": options.evaluation}
    return speedups | same | rows | {"floor": options.floor} | runs


if __name__ == "__main__":
    main()
