"""The time that a second job on the same model and task saves by stored unit scores and a stored dense evaluation.

    .venv/bin/python benchmarks/reuse.py [--quick] [--shared ../shared]

SmolLM2-135M-Instruct with the multi-task adapter is slimmed for SST-2 by a `taskslim serve` process: for one ratio, for
a second ratio, and for the second ratio again after the stored results were deleted. The first two jobs differ only in
the target, the last two only in what was stored. The last line is one JSON object: seconds of the stages `attribute`
and `evaluate_dense` in the first and the second job, their ratio (aim: less than 0.1), the bytes stored, and whether
the last two jobs kept the same units.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from safetensors import safe_open

from benchmarks.parts.quality.inputs import Source, smollm2
from service.cli.client import Api
from service.cli.demo.server import running_server
from service.contract.answers.job import Job, Stage
from service.contract.answers.report import Report
from service.settings import Settings

RESULT = ROOT / "benchmarks" / "results" / "reuse.json"
FIRST, SECOND = 0.3, 0.5
SKIPPABLE = (Stage.evaluate_dense, Stage.attribute)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 calibration and 96 evaluation rows, not 256 and 400")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="directory with data/ and models/")
    options = parser.parse_args()
    rows, shared = (64, 96) if options.quick else (256, 400), options.shared.resolve()
    model = smollm2(shared, Settings().state)
    with tempfile.TemporaryDirectory(prefix="reuse-") as directory, running(Path(directory)) as api:
        first = slim(api, request(model, shared, *rows, FIRST), Path(directory) / "first")
        second = slim(api, request(model, shared, *rows, SECOND), Path(directory) / "second")
        stored = api.scores(limit=100)
        for found in stored:
            api.delete_scores(found.digest)
        third = slim(api, request(model, shared, *rows, SECOND), Path(directory) / "third")
        same = kept(Path(directory) / "second") == kept(Path(directory) / "third")
    figures = {
        "first_seconds": skippable_total(first),
        "second_seconds": skippable_total(second),
        "share": round(skippable_total(second) / skippable_total(first), 4),
        "again_seconds": skippable_total(third),
        "stored_bytes": {found.kind.value: found.size for found in stored},
        "reused": [report.result.scores_reused for report in (first, second, third)],
        "same_units": same,
    }
    timings = {
        name: {timing.stage.value: timing.seconds for timing in report.timings}
        for name, report in (("first", first), ("second", second), ("third", third))
    }
    about = {"quick": options.quick, "calibration_rows": rows[0], "evaluation_rows": rows[1]}
    RESULT.write_text(json.dumps(about | figures | {"timings": timings}, indent=2) + "\n")
    print(json.dumps(figures))


@contextmanager
def running(directory: Path) -> Iterator[Api]:
    """A client of a new server with its state in `directory`."""
    with running_server(directory / "state") as url, closing(Api(url)) as api:
        yield api


def request(model: Source, shared: Path, calibration: int, evaluation: int, ratio: float) -> dict[str, Any]:
    rows = {"calibration": ("train", calibration), "evaluation": ("test", evaluation)}
    sources = {
        name: {"uri": (shared / f"data/sst2/{part}.jsonl").as_uri(), "limit": limit}
        for name, (part, limit) in rows.items()
    }
    assert model.adapter is not None
    return {
        "model": {"uri": model.directory.as_uri(), "adapter_uri": model.adapter.as_uri()},
        "task": {"preset": "sst2"} | sources,
        "target": {"ratio": ratio},
    }


def slim(api: Api, body: dict[str, Any], directory: Path) -> Report:
    """Run a job and return its report; report and kept indices are written to `directory`. Raises RuntimeError."""
    submitted = api.submit(body)
    job = [submitted, *api.watch(submitted)][-1]
    check(job)
    found = report(api, job, directory)
    print(f"{job.id}  {skippable_total(found):.2f} s of {total_seconds(found):.1f} s", flush=True)
    return found


def report(api: Api, job: Job, directory: Path) -> Report:
    """Download the report and the kept indices of a job to `directory`, and return the report."""
    for artifact in api.artifacts(job.id):
        if artifact.name in ("report.json", "kept.safetensors"):
            api.download(job.id, artifact, directory)
    return Report.model_validate_json((directory / "report.json").read_bytes())


def check(job: Job) -> None:
    if job.result is None:
        raise RuntimeError(f"job {job.id} {job.status}: {job.error}")


def skippable_seconds(report: Report) -> dict[str, float]:
    """Stage -> seconds, for the stages that a reuse skips."""
    return {timing.stage.value: timing.seconds for timing in report.timings if timing.stage in SKIPPABLE}


def skippable_total(report: Report) -> float:
    return round(sum(skippable_seconds(report).values()), 3)


def total_seconds(report: Report) -> float:
    return sum(timing.seconds for timing in report.timings)


def kept(directory: Path) -> dict[str, list[int]]:
    """Group of units -> indices of the units that stay."""
    with safe_open(directory / "kept.safetensors", framework="np") as file:
        return {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118


if __name__ == "__main__":
    main()
