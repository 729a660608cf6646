"""Where the time of a whole job goes, from its submission to its end, and which share of it is overhead.

    .venv/bin/python benchmarks/job.py [--quick] [--repetitions 3] [--rows 128]

Jobs of the small T5 and of SmolLM2-135M with its adapter in turns, through a queue in Redis, a real RQ worker and its
stand-by process. They halve the feed-forward layers with the defaults of a request. The first job of each model is not
counted. The work of the main thread is sampled every ten milliseconds: `load`, `forward`, `backward`, `fit` and `write`
are work, all else is overhead: the start of the job, imports, tokens, metrics, digests, the report, Redis.

`overhead_share` in the last line, one JSON object, is the greatest share over the models, each the median of its jobs.
`cpu_overhead_share` is that of the CPU seconds of the main thread, on which other programs have little effect; it has
no share of the process that verifies the checkpoint, which starts beside the job. `peak_to_model` is the greatest
growth of the process's memory over its imports, divided by the bytes of the model as it computes. `start_seconds` is
the median time from the submission of a job to the start of its attempt.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

import psutil

from benchmarks.parts.job.sampled_process import VARIABLE
from benchmarks.parts.job.sampler import WORK
from benchmarks.parts.quality.inputs import SOURCES, Source
from service.contract.request.job_request import JobRequest
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord, new_record
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.manifests import committed_report
from service.storage.object_store import Storage
from tests.support.processes import wait_for_standby
from tests.support.waiting import wait_until

TASK = "sst2"
FLOAT32_BYTES = 4
TABLES = {"stage": "stages", "work": "kinds", "work of the main thread, CPU": "cpu_kinds"}
JOB_SECONDS = 3600  # longest wait for one


@dataclass(frozen=True)
class Measured:
    """One job: seconds from its submission to its end, of its start, of each kind of work and of each stage."""

    total: float
    start: float
    kinds: Mapping[str, float]
    cpu_kinds: Mapping[str, float]
    stages: Mapping[str, float]
    peak_to_model: float

    @property
    def overhead(self) -> float:
        """The share of the time that is no work."""
        return 1 - sum(self.kinds.get(kind, 0.0) for kind in WORK) / self.total

    @property
    def cpu_overhead(self) -> float:
        """The share of the main thread's CPU seconds that is no work."""
        return 1 - sum(self.cpu_kinds.get(kind, 0.0) for kind in WORK) / sum(self.cpu_kinds.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one job of the T5")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128, help="calibration rows, and as many evaluation rows")
    parser.add_argument("--models", nargs="+", default=["t5", "smollm2"])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    names, repetitions = (["t5"], 1) if options.quick else (options.models, options.repetitions)
    sources = {name: SOURCES[name](options.shared, Settings().state) for name in names}
    with tempfile.TemporaryDirectory() as directory, embedded_redis(Path(directory)) as url:
        settings = Settings(redis_url=url, state=Path(directory), device="cpu")
        makers = {name: partial(request, source, options.shared, options.rows) for name, source in sources.items()}
        found = run(settings, makers, repetitions)
    for name, jobs in found.items():
        print_table(name, jobs)
    print(json.dumps(figures(found, repetitions)))


def request(source: Source, shared: Path, rows: int, seed: int) -> JobRequest:
    """A job with the defaults, but for the numbers of rows; those of another seed have other scores."""
    wording = source.tasks[TASK] if source.tasks else {"preset": TASK}
    files = {"calibration": "train", "evaluation": "test"}
    data = {
        part: {"uri": (shared / "data" / TASK / f"{name}.jsonl").resolve().as_uri(), "limit": rows, "seed": seed}
        for part, name in files.items()
    }
    adapter = {"adapter_uri": source.adapter.resolve().as_uri()} if source.adapter else {}
    body = {"model": {"uri": source.directory.resolve().as_uri()} | adapter, "task": wording | data}
    return JobRequest.model_validate(body | {"target": {"ratio": 0.5}})


def run(
    settings: Settings, requests: Mapping[str, Callable[[int], JobRequest]], repetitions: int
) -> dict[str, list[Measured]]:
    """The measurements of each model. Every job finds a stand-by process with its imports done."""
    file = settings.state / "samples"
    variables = {"SLIM_REDIS_URL": settings.redis_url, "SLIM_STATE": str(settings.state), "SLIM_DEVICE": "cpu"}
    environment = os.environ | variables | {VARIABLE: str(file), "PYTHONPATH": str(ROOT)}
    found: dict[str, list[Measured]] = {name: [] for name in requests}
    command = [sys.executable, "-c", "from benchmarks.parts.job.sampled_worker import main; main()"]
    with subprocess.Popen(command, env=environment, stdout=sys.stderr) as worker, ExitStack() as stack:
        stack.callback(worker.kill)
        for repetition in range(repetitions + 1):
            for name, each in requests.items():
                wait_for_standby(psutil.Process(worker.pid))
                record = submit(settings, each(repetition))
                sampled = wait_for_samples(file, record)
                if repetition:
                    found[name].append(measured(settings, record, sampled))
    return found


def wait_for_samples(file: Path, record: JobRecord) -> dict[str, Any]:
    """What the process of the job writes when it has ended."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        samples = [json.loads(line) for line in lines if line.endswith("\n")]
        found.extend(each for each in samples if each["job"] == record.id)
        return bool(found)

    wait_until(look, JOB_SECONDS)
    return found[0]


def submit(settings: Settings, body: JobRequest) -> JobRecord:
    """Create a job and enqueue it."""
    record = JobStore(connect(settings.redis_url)).accept(new_record(body))
    JobQueue(connect(settings.redis_url, decode=False)).enqueue(record)
    return record


def measured(settings: Settings, record: JobRecord, sampled: Mapping[str, Any]) -> Measured:
    """What the job's record, its report and its samples say. Exits where the job did not succeed."""
    ended = JobStore(connect(settings.redis_url)).get(record.tenant, record.id)
    report = committed_report(Storage(settings.artifacts_url), record.tenant, record.id)
    if report is None or ended.started_at is None or ended.finished_at is None:
        raise SystemExit(f"the job did not succeed: {ended.error}")
    total = (ended.finished_at - ended.created_at).total_seconds()
    start = (ended.started_at - ended.created_at).total_seconds()
    model_bytes = report.result.parameters.dense * FLOAT32_BYTES
    return Measured(
        total=total,
        start=start,
        kinds=sampled["seconds"] | {"start": start},
        cpu_kinds=sampled["cpu_seconds"],
        stages={timing.stage.value: timing.seconds for timing in report.timings},
        peak_to_model=(sampled["peak"] - sampled["before"]) / model_bytes,
    )


def print_table(name: str, jobs: Sequence[Measured]) -> None:
    """Print the seconds of each stage and kind of work as Markdown, medians of the jobs."""
    print(f"\n{name}: {statistics.median(job.total for job in jobs):.1f} s a job, {len(jobs)} jobs\n")
    for title, field in TABLES.items():
        tables = [getattr(job, field) for job in jobs]
        print(f"| {title} | seconds | share |\n| --- | --- | --- |")
        keys = dict.fromkeys(key for each in tables for key in each)
        seconds_of = Counter({key: statistics.median(each.get(key, 0.0) for each in tables) for key in keys})
        rows = seconds_of.items() if field == "stages" else seconds_of.most_common()
        for key, seconds in rows:
            share = statistics.median(each.get(key, 0.0) / sum(each.values()) for each in tables)
            print(f"| {key} | {seconds:.2f} | {100 * share:.1f} % |")
        print()


def figures(found: Mapping[str, Sequence[Measured]], repetitions: int) -> dict[str, Any]:
    """The figures of the last line."""
    shares = {name: statistics.median(job.overhead for job in jobs) for name, jobs in found.items()}
    cpu_shares = [statistics.median(job.cpu_overhead for job in jobs) for jobs in found.values()]
    each = {name: [job.overhead for job in jobs] for name, jobs in found.items()}
    return {
        "overhead_share": round(max(shares.values()), 3),
        "cpu_overhead_share": round(max(cpu_shares), 3),
        "overhead_shares": {name: round(share, 3) for name, share in shares.items()},
        "overhead_ranges": {name: [round(min(shares), 3), round(max(shares), 3)] for name, shares in each.items()},
        "start_seconds": round(statistics.median(job.start for jobs in found.values() for job in jobs), 3),
        "peak_to_model": round(max(job.peak_to_model for jobs in found.values() for job in jobs), 2),
        "repetitions": repetitions,
        "machine": f"{platform.machine()}, {psutil.cpu_count(logical=False)} cores, load {psutil.getloadavg()[0]:.1f}",
        "finished": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
