"""The smallest model that keeps 98 % of a task's accuracy, asked for as a user does: jobs sent to `taskslim serve`.

    .venv/bin/python benchmarks/targets.py [--quick] [--model t5] [--tasks sst2 ag_news] [--shared DIRECTORY]

SmolLM2-135M-Instruct with the multi-task adapter, or the small trained T5; train rows calibrate, half of the drawn test
rows steers the search and the other half, which it never sees, gives the figures. A floor counts as held where the
interval of the reported share reaches it. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.quality_inputs import SOURCES, Source
from service.client import Api
from service.demo.server import running_server
from service.schemas import Job, JobStatus
from service.settings import Settings

FLOOR = 0.98
SHARED = Path(__file__).parents[2] / "shared"
BEST = {
    "method": {"units": ["ffn", "heads"], "scope": "global", "repair": "least_squares"},
    "output": {"layout": "per-layer", "round_to": 1},
}
VARIANTS: dict[str, dict[str, Any]] = {"per-layer, least_squares": BEST, "defaults": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, one setting: at most four minutes")
    parser.add_argument("--model", choices=SOURCES, default="smollm2")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "ag_news"])
    parser.add_argument("--shared", type=Path, default=SHARED)
    asked = parser.parse_args()
    calibration, evaluation = (64, 400) if asked.quick else (256, 1000)
    variants = {"per-layer, least_squares": BEST} if asked.quick else VARIANTS
    source = SOURCES[asked.model](asked.shared, Settings().state)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as state, running_server(Path(state)) as url:
        api = Api(url)
        for task in asked.tasks:
            rows = asked.shared / "data" / task
            for name, fields in variants.items():
                job = run(api, request(source, task, rows, calibration, evaluation) | fields)
                found[f"{task}, {name}"] = figures(job)
                print(f"{task}, {name}: {json.dumps(found[f'{task}, {name}'])}")
    print(
        json.dumps(
            {"model": asked.model, "floor": FLOOR, "calibration": calibration, "evaluation": evaluation, "jobs": found}
        )
    )


def request(source: Source, task: str, rows: Path, calibration: int, evaluation: int) -> dict[str, Any]:
    """The job as it is posted."""
    adapter = source.adapter.resolve().as_uri() if source.adapter else None
    return {
        "model": {"uri": source.directory.resolve().as_uri(), "adapter_uri": adapter},
        "task": {
            **(source.tasks[task] if source.tasks else {"preset": task}),
            "calibration": {"uri": (rows / "train.jsonl").resolve().as_uri(), "limit": calibration},
            "evaluation": {"uri": (rows / "test.jsonl").resolve().as_uri(), "limit": evaluation},
        },
        "target": {"keep_metric": FLOOR},
        "deadline_seconds": 24 * 3600,
    }


def run(api: Api, asked: dict[str, Any]) -> Job:
    """The job when it is over, with its progress on the way."""
    job, stage = api.submit(asked), None
    for now in api.watch(job):
        if now.stage != stage:
            print(f"  {now.stage}", file=sys.stderr)
        job, stage = now, now.stage
    return job


def figures(job: Job) -> dict[str, Any]:
    """What the JSON holds of a job."""
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
        "reported": rounded(kept.reported.model_dump()),
        "steering": rounded(kept.steering.model_dump()),
        "dense": result.metrics.dense.calibrated_accuracy and result.metrics.dense.calibrated_accuracy.value,
        "slim": result.metrics.slim.calibrated_accuracy and result.metrics.slim.calibrated_accuracy.value,
        "rows": kept.reported_examples,
        "removed": round(result.ratio, 4),
        "parameters": result.parameters.model_dump(),
        "models": len(result.curve),
        "rows_of_models": [point.examples for point in result.curve],
        "seconds": seconds,
    }


def rounded(estimate: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in estimate.items()}


if __name__ == "__main__":
    main()
