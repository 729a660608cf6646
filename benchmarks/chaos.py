"""Injects faults into a deployment and checks that no job is lost.

    .venv/bin/python benchmarks/chaos.py [--quick] [--seed N] [--keep DIR]

Redis with an append-only file, an S3 server, the API and two workers run as separate processes, which are started again
when they exit. Forty jobs are submitted while the faults of `parts/chaos/faults.py` are injected in a random order. A
few jobs have a target that a worker finds to be unreachable. The figures are written to results/chaos.json. The last
line is one JSON object: `lost` counts jobs that are unknown or ended with the wrong status, `stuck` those that did not
end in time, `doubled` those with more than one result, files of a lost attempt, or more than one job for an idempotency
key.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from benchmarks.parts.chaos import audit as chaos_audit
from benchmarks.parts.chaos.client import Client
from benchmarks.parts.chaos.deployment import Deployment, deployed
from benchmarks.parts.chaos.faults import Fault, inject
from service.infrastructure.redis_client import connect
from service.jobs.store import JobStore
from service.storage.object_store import Storage
from tests.support.jobs import TEMPLATE, checkpoint, rows_file

JOBS = 40
UNREACHABLE = frozenset({7, 19, 31})  # numbers of the requests with an unreachable target
INLINE_EVERY = 5  # one in five requests has its evaluation rows inline
RESULT = ROOT / "benchmarks" / "results" / "chaos.json"
REPORT_SECONDS = 15.0
# Settings for a deployment with many faults; all others have their defaults.
SETTINGS = {"SLIM_MAX_ATTEMPTS": "6", "SLIM_TOKENS_PER_BATCH": "32"}
COUNTS = {"child_killed": 3, "worker_killed": 3, "both_killed": 2, "redis_restarted": 2, "api_restarted": 2}
OUTAGES = ("redis_away", "s3_away", "scratch_full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter outages and jobs: at most fourteen minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of the faults")
    parser.add_argument("--keep", type=Path, help="keep logs and data in this empty directory")
    parser.add_argument("--minutes", type=float, help="time limit; default: 13 with --quick, else 60")
    options = parser.parse_args()
    minutes = options.minutes or (13 if options.quick else 60)
    with ExitStack() as stack:
        directory = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        directory.mkdir(parents=True, exist_ok=True)
        figures = run(directory, Random(options.seed), quick=options.quick, minutes=minutes)
    figures = {"seed": options.seed, "quick": options.quick} | figures
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps({name: value for name, value in figures.items() if name not in ("faults", "recoveries", "wrong")}))
    if figures["lost"] or figures["stuck"] or figures["doubled"]:
        sys.exit(1)


def run(directory: Path, draw: Random, *, quick: bool, minutes: float) -> dict[str, Any]:
    """The figures of one run."""
    start, away_seconds = time.monotonic(), 18.0 if quick else 60.0
    order = fault_order(draw, quick)
    with deployed(directory, SETTINGS) as deployment:
        requests = publish(deployment, rows=200 if quick else 2500)
        client = Client(deployment.url)
        pauses = [draw.uniform(5, 18) for _ in order]
        planned = sum(pauses) + away_seconds * sum(name in OUTAGES for name in order)
        submitting = client.submit_all(requests, planned / JOBS)
        faults = []
        for name, pause in zip(order, pauses, strict=True):
            time.sleep(pause)
            say(start, f"{name}: started, {len(client.accepted)} jobs accepted")
            faults.append(inject(name, deployment, draw, away_seconds))
            say(start, f"{name}: ended {faults[-1].rq_jobs or ''}")
        submitting.join()
        wait_until_finished(client, start, limit_seconds=60 * minutes)
        return figures(deployment, client, faults, time.monotonic() - start)


def fault_order(draw: Random, quick: bool) -> list[str]:
    """The names of all faults in random order, each as often as COUNTS says."""
    counts = COUNTS | dict.fromkeys(OUTAGES, 1 if quick else 2)
    order = [name for name, count in counts.items() for _ in range(count)]
    draw.shuffle(order)
    return order


def publish(deployment: Deployment, rows: int) -> list[dict[str, Any]]:
    """Store a tiny model and rows in the object store, and return the requests that use them."""
    store = Storage("s3://chaos/inputs")
    local = deployment.directory / "inputs"
    checkpoint(local / "tiny")
    rows_file(local / "calibration.jsonl", rows)
    rows_file(local / "evaluation.jsonl", 20)
    for path in local.rglob("*"):
        if path.is_file():
            store.put_file(path, str(path.relative_to(local)))
    inline = [json.loads(line) for line in (local / "evaluation.jsonl").read_text().splitlines()]
    return [request(number, inline, rows * 9 // 10) for number in range(JOBS)]


def request(number: int, inline: list[dict[str, str]], limit: int) -> dict[str, Any]:
    """The request of that number, with `limit` calibration rows."""
    evaluation = {"rows": inline} if number % INLINE_EVERY == 0 else {"uri": "s3://chaos/inputs/evaluation.jsonl"}
    return {
        "model": {"uri": "s3://chaos/inputs/tiny"},
        "task": {
            "kind": "classification",
            "template": TEMPLATE,
            "labels": {"positive": "positive", "negative": "negative"},
            # Different rows for each job, so that none reuses the scores of another and skips a stage to be killed.
            "calibration": {"uri": "s3://chaos/inputs/calibration.jsonl", "limit": limit, "seed": number},
            "evaluation": evaluation,
        },
        "target": {"keep_metric": 1.0} if number in UNREACHABLE else {"ratio": 0.3},
        "output": {"round_to": 8},
        "tags": {chaos_audit.TAG: str(number)},
    }


def wait_until_finished(client: Client, start: float, limit_seconds: float) -> None:
    """Wait until every job has ended, or until the time limit."""
    while time.monotonic() - start < limit_seconds:
        states = Counter(job["status"] for job in client.jobs())
        say(start, f"{dict(states)}")
        if not states.keys() & {"queued", "running", "cancelling"}:
            return
        time.sleep(REPORT_SECONDS)


def figures(deployment: Deployment, client: Client, faults: list[Fault], seconds: float) -> dict[str, Any]:
    jobs = {job["id"]: job for job in client.jobs()}
    job_store, storage = JobStore(connect(deployment.redis.url)), Storage("s3://chaos/artifacts")
    audit = chaos_audit.audit(client, jobs, storage, job_store, UNREACHABLE)
    recovered = chaos_audit.recoveries(faults, jobs, job_store)
    outcomes = Counter(attempt["outcome"] for job in jobs.values() for attempt in job["attempts"])
    return {
        "lost": len(audit.lost) + len(client.refused),
        "stuck": len(audit.stuck),
        "doubled": len(audit.doubled),
        "jobs": len(client.accepted),
        "succeeded": sum(job["status"] == "succeeded" for job in jobs.values()),
        "failed_by_target": sum((job["error"] or {}).get("code") == chaos_audit.TARGET for job in jobs.values()),
        "attempts": sum(job["attempt"] for job in jobs.values()),
        "outcomes": dict(outcomes),
        "longest_recovery_seconds": max((hit.queued for hit in recovered if hit.queued), default=None),
        "longest_wait_seconds": max((hit.running for hit in recovered if hit.running), default=None),
        "requests_sent_again": client.failures,
        "seconds": round(seconds),
        "faults": [asdict(fault) | {"seconds": round(fault.ended - fault.began, 1)} for fault in faults],
        "recoveries": [asdict(hit) for hit in recovered],
        "wrong": asdict(audit) | {"refused": client.refused},
    }


def say(start: float, text: str) -> None:
    print(f"{time.monotonic() - start:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
