"""The RQ worker: waits for entries without ever loading torch, and gives each attempt a process of its own.

A fresh interpreter for each job means a clean CUDA context, all its memory back at the end, and a crash that takes
nothing else along. The process learns of Redis by its environment: RQ would put the password in its command line.
"""

import os
import signal
import sys
from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.worker import SpawnWorker

from service.infrastructure.redis_client import WORKER_PATIENCE, connect
from service.infrastructure.worker_registry import leave, register_worker
from service.jobs.rq_jobs import QUEUE, SERIALIZER, RqJob
from service.jobs.store import JobStore

CHILD = "worker.attempts.process"
WORKER_TTL_SECONDS = 30  # an idle worker speaks this often, less 15 seconds
MONITORING_SECONDS = 5  # a busy one
MAINTENANCE_SECONDS = 60
# By default OpenMP's threads spin while they wait for each other. Where other processes want the same cores, or a
# container's quota ends, the spinning takes the time from the one that works: a pass was seen to take 15 times as long.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}


class SlimWorker(SpawnWorker):
    """Listens to the one queue of the Redis at `url`."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        redis = connect(url, patience=WORKER_PATIENCE, decode=False)
        self._job_store = JobStore(connect(url, patience=WORKER_PATIENCE))
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
        """Starts the process of an attempt. SIGTERM waits until the attempt can take it
        (`worker.attempts.lease_keeper`)."""
        execution = self.execution
        if execution is None:
            raise RuntimeError("RQ starts a process for an execution that it has prepared")
        arguments = [sys.executable, "-m", CHILD, str(os.getpid()), self.name, job.id, execution.id]
        self._horse_pid = os.posix_spawn(
            sys.executable, arguments, PATIENT_THREADS | os.environ, setpgroup=0, setsigmask=[signal.SIGTERM]
        )

    def handle_warm_shutdown_request(self) -> None:
        """SIGTERM to the worker reaches the attempt, which hands its job back."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """The attempt's process died: its lease need not be waited for."""
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]
        if job.kwargs.keys() == {"tenant", "job_id", "attempt"}:
            self._job_store.expire_lease(**job.kwargs)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        super().heartbeat(timeout, pipeline)
        if not self.is_horse:
            register_worker(self.connection, self.name)

    def register_death(self) -> None:
        super().register_death()  # type: ignore[no-untyped-call]
        leave(self.connection, self.name)
