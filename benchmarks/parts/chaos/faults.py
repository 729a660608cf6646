"""The faults: each breaks a part of a deployment, repairs it, and returns the RQ jobs of the attempts that it ended."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

import psutil

from benchmarks.parts.chaos.deployment import Deployment, Running, pid_of
from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.redis_client import connect
from service.jobs.store import JobStore

SEARCH_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    """One injected fault. `began` and `ended` are Unix times in seconds; from `ended` on, the service can continue."""

    name: str
    began: float
    ended: float
    rq_jobs: list[str] = field(default_factory=list)


Inject = Callable[[Deployment, Random, float], list[str]]


def child_killed(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    return _kill(deployment, draw, lambda running: [running.child])


def worker_killed(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    return _kill(deployment, draw, lambda running: [running.worker])


def both_killed(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    return _kill(deployment, draw, lambda running: [running.worker, running.child])


def redis_restarted(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    deployment.redis.kill()
    deployment.redis.start()
    return []


def redis_away(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    deployment.redis.kill()
    time.sleep(away_seconds)
    deployment.redis.start()
    return []


def s3_away(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    deployment.s3.kill()
    time.sleep(away_seconds)
    deployment.s3.start()
    return []


def api_restarted(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    psutil.Process(pid_of(deployment.api)).kill()
    return []


def scratch_full(deployment: Deployment, draw: Random, away_seconds: float) -> list[str]:
    fillers = deployment.fill_scratch()
    time.sleep(away_seconds)
    for filler in fillers:
        filler.unlink(missing_ok=True)
    return []


FAULTS: Mapping[str, Inject] = {
    "child_killed": child_killed,
    "worker_killed": worker_killed,
    "both_killed": both_killed,
    "redis_restarted": redis_restarted,
    "redis_away": redis_away,
    "s3_away": s3_away,
    "api_restarted": api_restarted,
    "scratch_full": scratch_full,
}


def inject(name: str, deployment: Deployment, draw: Random, away_seconds: float) -> Fault:
    """Inject the fault of that name; an outage lasts `away_seconds`."""
    began = time.time()
    rq_jobs = FAULTS[name](deployment, draw, away_seconds)
    return Fault(name, began, time.time(), rq_jobs)


def _kill(deployment: Deployment, draw: Random, victims: Callable[[Running], list[psutil.Process]]) -> list[str]:
    """Kill processes of a random running attempt, in three of four cases one that has started its work.

    Returns the RQ job of that attempt; nothing where none runs within SEARCH_SECONDS.
    """
    begun, end = draw.random() < 0.75, time.monotonic() + SEARCH_SECONDS
    job_store = JobStore(connect(deployment.redis.url))
    while time.monotonic() < end:
        if running := [each for each in deployment.running() if not begun or _has_begun(job_store, each.rq_job)]:
            hit = draw.choice(running)
            for process in victims(hit):
                if process.is_running():
                    process.kill()
            return [hit.rq_job]
        time.sleep(0.1)
    return []


def _has_begun(job_store: JobStore, rq_job: str) -> bool:
    job_id, _, attempt = rq_job.rpartition("-")
    return job_store.get(DEFAULT_TENANT, job_id).attempt == int(attempt)
