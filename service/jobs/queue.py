"""RQ's queue: which attempt of which job a worker takes next.

Every worker process listens to this one queue, so that RQ moves an RQ job with BLMOVE and none is lost on its way from
the queue to the worker.
"""

from collections.abc import Sequence
from contextlib import suppress

from redis import Redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.registry import ReadyJobRegistry

from service.infrastructure.redis_keys import OPEN, job_key
from service.infrastructure.redis_scripts import load_script
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import QUEUE, QUEUE_KEY, SERIALIZER, RqJob, rq_job_ids
from service.jobs.shards import KnownToRq
from service.jobs.state_machine import PACKAGE
from service.jobs.tenant_slots import TenantSlots

UNLIMITED = 2**31
DEFER_AT_ONCE = 1000  # jobs in one run of the script, during which Redis does nothing else


class JobQueue:
    """The queue of the workers. Needs a client that returns bytes: `connect(url, decode=False)`."""

    def __init__(self, redis: Redis, *, max_running: int = UNLIMITED) -> None:
        self.redis = redis
        self._slots = TenantSlots(redis, max_running)
        self._defer_checks = load_script(redis, PACKAGE, "defer_checks")
        self._queue = Queue(QUEUE, connection=redis, job_class=RqJob, serializer=SERIALIZER)

    def enqueue(self, record: JobRecord) -> bool:
        """Enqueue the next attempt of a queued job; a second call has no effect.

        False where the tenant's slots are taken, so that the job waits outside the queue for `enqueue_waiting`. Also
        where the job is not queued any more: then it waits for nothing.
        """
        return self._slots.take(record)

    def enqueue_waiting(self, record: JobRecord) -> bool:
        """Whether a queued job waits outside the queue; if so it is enqueued where its tenant has a free slot."""
        if self._slots.has(record.tenant, record.id):
            return False
        self.enqueue(record)
        return True

    def contains(self, record: JobRecord) -> bool:
        """Whether the next attempt of a queued job is in the queue, or with a live worker that is about to start it.

        Of an attempt in shards, whether one of them is.
        """
        with_rq = {*self._queue.get_job_ids(), *self._started()}
        return any(rq_job in with_rq for rq_job in rq_job_ids(record, record.attempt + 1))

    def known(self) -> KnownToRq:
        """What RQ knows of attempts and of shards; those of a dead worker are enqueued again, or given up."""
        ReadyJobRegistry(queue=self._queue).cleanup()  # a worker has died between the last shard and the last job
        waiting = {*self._queue.get_job_ids(), *self._queue.intermediate_queue.get_job_ids()}
        return KnownToRq(waiting, set(self._started()), set(self._queue.failed_job_registry.get_job_ids()))

    def defer_checks(self, check_after_ms: int) -> None:
        """Defer the reconciler's check of each queued job whose next attempt is in the queue.

        Does for all jobs what `contains` and `JobStore.defer_overdue` do for one, at a fraction of the cost.
        """
        offset, seen = 0, DEFER_AT_ONCE
        while seen == DEFER_AT_ONCE:
            arguments: list[str | int] = [check_after_ms, offset, DEFER_AT_ONCE, job_key("%s", "%s")]
            seen, still_due = self._defer_checks(keys=[OPEN, QUEUE_KEY], args=arguments)
            offset += still_due

    def is_started(self, job_id: str) -> bool:
        """Whether a live worker has taken any attempt of the job."""
        return any(attempt.rpartition("-")[0] == job_id for attempt in self._started())

    def remove(self, record: JobRecord) -> None:
        """Remove the next attempt from the queue and from RQ's records."""
        self._remove(rq_job_ids(record, record.attempt + 1))

    def remove_waiting(self, record: JobRecord) -> None:
        """Remove what still waits of the present attempt of a job in shards: other shards, and the last job."""
        if record.request.method.shards > 1:
            started = self._started()
            self._remove([each for each in rq_job_ids(record, record.attempt) if each not in started])

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            rq_job = self._fetch(name)
            if rq_job is not None:
                self._queue.intermediate_queue.remove(rq_job.id)
                self._remove_expired_executions(rq_job)
                rq_job.delete()

    def kill(self, record: JobRecord) -> None:
        """Kill the processes of the present attempt, if a worker still has one that no longer renews its lease."""
        for name in rq_job_ids(record, record.attempt):
            with suppress(NoSuchJobError, InvalidJobOperation):
                send_stop_job_command(self.redis, name, serializer=SERIALIZER)

    def depth(self) -> int:
        """The number of attempts in the queue."""
        return self._queue.count

    def _started(self) -> list[str]:
        """The attempts that a worker has taken, as long as the worker keeps saying so."""
        started: list[str] = self._queue.started_job_registry.get_job_ids(cleanup=True)
        return started

    def _remove_expired_executions(self, rq_job: Job) -> None:
        """Remove executions that a dead worker left: they expire before the list that names them, and RQ fails to
        delete an RQ job whose list names an expired one."""
        for execution_id in rq_job.execution_registry.get_execution_ids():
            try:
                Execution.fetch(execution_id, rq_job.id, connection=self.redis)
            except ValueError:
                self.redis.zrem(rq_job.execution_registry.key, execution_id)

    def _fetch(self, name: str) -> Job | None:
        try:
            return RqJob.fetch(name, connection=self.redis, serializer=SERIALIZER)
        except NoSuchJobError:
            return None
