"""The smallest model that keeps 98 % of a task's accuracy, by jobs that are sent to `taskslim serve`.

    .venv/bin/python benchmarks/targets.py [--quick] [--model t5] [--tasks sst2 ag_news] [--shared DIRECTORY]

The models are SmolLM2-135M-Instruct with the multi-task adapter and the small trained T5. Calibration is on train rows.
Half of the test rows steer the search; the figures are on the other half, which the search does not use. The floor
counts as kept if the interval of the reported share reaches it. After each search a second job with the same method
and a ratio as its target shows the time that stored scores save. The last line is one JSON object, which is also
written to results/targets.json unless `--quick`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.quality.inputs import SOURCES, Source
from benchmarks.parts.quality.measurement import rounded
from benchmarks.reuse import report, skippable_seconds
from service.cli.client import Api
from service.cli.demo.server import running_server
from service.contract.answers.job import Job, JobStatus
from service.settings import Settings

RESULT = ROOT / "benchmarks" / "results" / "targets.json"
FLOOR, RATIO = 0.98, 0.5
SHARED = ROOT.parent / "shared"
BEST = {
    "method": {"units": ["ffn", "heads"], "scope": "global", "repair": "least_squares"},
    "output": {"layout": "per_layer", "round_to": 1},
}
VARIANTS: dict[str, dict[str, Any]] = {"per_layer, least_squares": BEST, "defaults": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small T5, fewer rows, one variant")
    parser.add_argument("--model", choices=SOURCES)
    parser.add_argument("--tasks", nargs="+", default=["sst2", "ag_news"])
    parser.add_argument("--shared", type=Path, default=SHARED)
    options = parser.parse_args()
    calibration, evaluation = (64, 400) if options.quick else (256, 1000)
    variants = {"per_layer, least_squares": BEST} if options.quick else VARIANTS
    model = options.model or ("t5" if options.quick else "smollm2")
    source = SOURCES[model](options.shared, Settings().state)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as state, running_server(Path(state)) as url:
        api = Api(url)
        for task in options.tasks:
            rows = options.shared / "data" / task
            for name, fields in variants.items():
                body = request(source, task, rows, calibration, evaluation) | fields
                key = f"{task}, {name}"
                first = run(api, body | {"target": {"keep_metric": FLOOR}})
                second = run(api, body | {"target": {"ratio": RATIO}})
                found[key] = figures(first) | {"scores": reuse(api, (first, second), Path(state) / "reports")}
                print(f"{key}: {json.dumps(found[key])}", flush=True)
    figures_of_model = {
        "quick": options.quick,
        "floor": FLOOR,
        "calibration_rows": calibration,
        "evaluation_rows": evaluation,
        "jobs": found,
    }
    if not options.quick:
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps(known | {model: figures_of_model}, indent=2) + "\n")
    print(json.dumps({model: figures_of_model}))


def request(source: Source, task: str, rows: Path, calibration: int, evaluation: int) -> dict[str, Any]:
    """The request of a job, without its target."""
    adapter = source.adapter.resolve().as_uri() if source.adapter else None
    return {
        "model": {"uri": source.directory.resolve().as_uri(), "adapter_uri": adapter},
        "task": {
            **(source.tasks[task] if source.tasks else {"preset": task}),
            "calibration": {"uri": (rows / "train.jsonl").resolve().as_uri(), "limit": calibration},
            "evaluation": {"uri": (rows / "test.jsonl").resolve().as_uri(), "limit": evaluation},
        },
        "deadline_seconds": 24 * 3600,
    }


def run(api: Api, body: dict[str, Any]) -> Job:
    """The job after its end; its stages are printed to standard error."""
    job, stage = api.submit(body), None
    for now in api.watch(job):
        if now.stage != stage:
            print(f"  {now.stage}", file=sys.stderr)
        job, stage = now, now.stage
    return job


def figures(job: Job) -> dict[str, Any]:
    """The figures of a job in the JSON object."""
    assert job.started_at is not None
    assert job.finished_at is not None
    seconds = round((job.finished_at - job.started_at).total_seconds(), 1)
    if job.status is not JobStatus.succeeded or job.result is None or job.result.kept_metric is None:
        assert job.error is not None
        curve = [point.model_dump(mode="json") for point in job.error.curve]
        return {"status": job.status, "code": job.error.code, "message": job.error.message, "curve": curve}
    result, kept = job.result, job.result.kept_metric
    return {
        "status": job.status,
        "holds": kept.reported.high >= FLOOR,
        "reported": rounded(kept.reported).model_dump(),
        "steering": rounded(kept.steering).model_dump(),
        "dense": result.metrics.dense.value.value,
        "slim": result.metrics.slim.value.value,
        "rows": kept.reported_examples,
        "removed": round(result.ratio, 4),
        "parameters": result.parameters.model_dump(),
        "models": len(result.curve),
        "rows_of_models": [point.examples for point in result.curve],
        "seconds": seconds,
    }


def reuse(api: Api, jobs: Sequence[Job], directory: Path) -> list[dict[str, Any]]:
    """For each job: whether it reused stored scores, and the seconds of the stages that a reuse skips."""
    reports = [report(api, job, directory / job.id) for job in jobs if job.result]
    return [{"reused": each.result.scores_reused, "seconds": skippable_seconds(each)} for each in reports]


if __name__ == "__main__":
    main()
