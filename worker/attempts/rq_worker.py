"""The RQ worker: waits for RQ jobs without loading torch, and has a new process for each attempt.

A new interpreter for each attempt has a clean CUDA context, frees all memory at its end, and may crash without an
effect on the worker. The process reads the URL of Redis from its environment: RQ would put the password in the command
line. It is started before there is an attempt (`worker.attempts.standby`).
"""

import os
import signal
from typing import Any

from rq.job import Job
from rq.queue import Queue
from rq.worker import SpawnWorker

from service.infrastructure.redis_client import WORKER_RETRIES, connect
from service.infrastructure.worker_registry import register_worker, unregister_worker
from service.jobs.rq_jobs import QUEUE, SERIALIZER, RqJob
from service.jobs.store import JobStore
from worker.attempts.standby import HandedOver, StandbyProcess

CHILD = "worker.attempts.process"
WORKER_TTL_SECONDS = 30  # an idle worker sends a heartbeat 15 seconds before this has passed
MONITORING_SECONDS = 5  # between the heartbeats of a busy worker
MAINTENANCE_SECONDS = 60
NO_TIMEOUT = -1  # RQ's number for it


class SlimWorker(SpawnWorker):
    """Takes RQ jobs from the only queue of the Redis at `url`.

    `child` is the module of the process of an attempt. With `standby` such a process waits for the next attempt.
    """

    child = CHILD

    def __init__(self, url: str, name: str, *, standby: bool = True, **options: Any) -> None:
        self._keeps_standby = standby
        self._standby = StandbyProcess(self.child, [str(os.getpid()), name])
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
        """Hand the attempt over to the process that waits for it, or to a new one."""
        execution = self.execution
        if execution is None:
            raise RuntimeError("RQ must prepare an execution before it starts a process")
        if job.timeout is None:  # an RQ job from elsewhere: its process refuses it, and RQ would add to the timeout
            job.timeout = NO_TIMEOUT
        self._horse_pid = self._standby.hand_over(HandedOver(rq_job=job.id, execution=execution.id))

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
        """Renew RQ's own key of the worker, and the registration that the API counts workers by.

        Also starts the process of the next attempt, where none waits: when the worker is idle or an attempt has run
        for MONITORING_SECONDS, so that the imports of the one do not delay the start of the other.
        """
        super().heartbeat(timeout, pipeline)
        if self.is_horse:
            return
        register_worker(self.connection, self.name)
        if self._keeps_standby and not self._stop_requested:
            self._standby.keep()

    def teardown(self) -> None:
        """End the process that waits for an attempt, and take the worker off the registers."""
        if not self.is_horse:
            self._standby.end()
        super().teardown()  # type: ignore[no-untyped-call]

    def register_death(self) -> None:
        """Delete RQ's own key of the worker, and the registration that the API counts workers by."""
        super().register_death()  # type: ignore[no-untyped-call]
        unregister_worker(self.connection, self.name)
