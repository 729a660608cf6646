"""The process of an attempt, as `worker.attempts.process`, which also samples its work.

Appends one line of JSON to the file that the variable JOB_BENCH_FILE names: the seconds and CPU seconds of each kind of
work, and the bytes of memory before and at most.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

from rq import Retry

import worker.tasks
from benchmarks.parts.job.sampler import Sampler, peak_resident_bytes, resident_bytes
from worker.attempts import process

VARIABLE = "JOB_BENCH_FILE"


def sampled(run_job: Callable[..., Retry | None]) -> Callable[..., Retry | None]:
    """`run_job`, which writes what it did before it returns."""

    @functools.wraps(run_job)
    def run(tenant: str, job_id: str, attempt: int, shard: int | None = None) -> Retry | None:
        sampler, before = Sampler(), resident_bytes()
        with sampler.sampling():
            ended = run_job(tenant, job_id, attempt, shard)
        seconds = {"seconds": sampler.seconds, "cpu_seconds": sampler.cpu_seconds}
        line = {"job": job_id, **seconds, "before": before, "peak": peak_resident_bytes()}
        with Path(os.environ[VARIABLE]).open("a") as file:
            file.write(json.dumps(line) + "\n")
        return ended

    return run


if __name__ == "__main__":
    worker.tasks.run_job = sampled(worker.tasks.run_job)
    process.main()
