"""The RQ worker: waits for RQ jobs without loading torch, and starts a new process for each attempt.

A new interpreter for each attempt has a clean CUDA context, frees all memory at its end, and may crash without an
effect on the worker. The process reads the URL of Redis from its environment: RQ would put the password in the command
line.
"""

import os
import signal
import sys
from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.worker import SpawnWorker

from service.infrastructure.redis_client import WORKER_RETRIES, connect
from service.infrastructure.worker_registry import register_worker, unregister_worker
from service.jobs.rq_jobs import QUEUE, SERIALIZER, RqJob
from service.jobs.store import JobStore

CHILD = "worker.attempts.process"
WORKER_TTL_SECONDS = 30  # an idle worker sends a heartbeat 15 seconds before this has passed
MONITORING_SECONDS = 5  # between the heartbeats of a busy worker
MAINTENANCE_SECONDS = 60
NO_TIMEOUT = -1  # RQ's number for it
# By default OpenMP's threads spin while they wait for each other. Where other processes use the same cores, or a
# container has a CPU quota, spinning threads take time from the working one: one pass took 15 times longer.
OPENMP_VARIABLES = {"OMP_WAIT_POLICY": "passive"}


class SlimWorker(SpawnWorker):
    """Takes RQ jobs from the only queue of the Redis at `url`."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        redis = connect(url, retries=WORKER_RETRIES, decode=False)
        self._job_store = JobStore(connect(url, retries=WORKER_RETRIES))
        super().__init__(
            [Queue(QUEUE, connection=redis, job_class=RqJob, serializer=SERIALIZER)],
            name=name,
            connection=redis,
            job_class=RqJob,
            serializer=SERIALIZER,
            worker_ttl=WORKER_TTL_SECONDS,
            job_monitoring_interval=MONITORING_SECONDS,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
            **options,
        )

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Start the process of an attempt. It blocks SIGTERM until it has a handler (`worker.attempts.signals`)."""
        execution = self.execution
        if execution is None:
            raise RuntimeError("RQ must prepare an execution before it starts a process")
        if job.timeout is None:  # an RQ job from elsewhere: its process refuses it, and RQ would add to the timeout
            job.timeout = NO_TIMEOUT
        arguments = [sys.executable, "-m", CHILD, str(os.getpid()), self.name, job.id, execution.id]
        self._horse_pid = os.posix_spawn(
            sys.executable, arguments, OPENMP_VARIABLES | os.environ, setpgroup=0, setsigmask=[signal.SIGTERM]
        )

    def handle_warm_shutdown_request(self) -> None:
        """Pass SIGTERM on to the process of the attempt, which hands its job back."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """End the lease of an attempt whose process has died, so that the job need not wait for it to expire."""
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        if job.kwargs.keys() - {"shard"} == {"tenant", "job_id", "attempt"}:
            self._job_store.expire_lease(**{name: value for name, value in job.kwargs.items() if name != "shard"})

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Renew RQ's own key of the worker, and the registration that the API counts workers by."""
        super().heartbeat(timeout, pipeline)
        if not self.is_horse:
            register_worker(self.connection, self.name)

    def register_death(self) -> None:
        """Delete RQ's own key of the worker, and the registration that the API counts workers by."""
        super().register_death()  # type: ignore[no-untyped-call]
        unregister_worker(self.connection, self.name)
