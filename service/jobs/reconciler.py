"""What happens when a worker dies: the reconciler requeues its job, finishes it from its stored result, or fails it.

The reconciler is a thread of each API process. It checks every unfinished job whose lease has run out, and every queued
job that RQ's queue may have lost. A lock in Redis, renewed while it is held, lets one reconciler work at a time. Every
step is an operation of the job's state machine, which only the first of two callers can carry out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from redis import RedisError

from service.contract.answers.job import JobError, JobStatus
from service.contract.errors import StorageUnavailable, TaskslimError, WorkerLost
from service.infrastructure.background_threads import repeating
from service.infrastructure.redis_client import connect
from service.infrastructure.redis_lock import RenewedLock
from service.jobs.leases import deadline_exceeded
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import SHARD_RETRIES
from service.jobs.shards import ShardsState
from service.jobs.store import JobStore
from service.jobs.usage import record_usage
from service.settings import Settings
from service.storage.manifests import committed_result, delete_attempts, delete_job_files
from service.storage.object_store import Storage

LOCK = "slim:reconciler"
LOCK_SECONDS = 60
STORAGE_RETRY_SECONDS = 5  # the other jobs wait meanwhile, and the next check comes soon

log = structlog.get_logger()


@contextmanager
def reconciling(settings: Settings) -> Iterator[None]:
    """Reconcile in a thread while the block runs. `settings.redis_url` must name a server."""
    job_store = JobStore(connect(settings.redis_url), lease_seconds=settings.lease_seconds)
    queue = JobQueue(connect(settings.redis_url, decode=False), max_running=settings.max_running_jobs)
    with repeating("reconciler", Reconciler(job_store, queue, settings).step, settings.reconcile_seconds):
        yield


class Reconciler:
    """Checks every unfinished job whose check is due."""

    def __init__(self, job_store: JobStore, queue: JobQueue, settings: Settings) -> None:
        self._job_store, self._queue, self._settings = job_store, queue, settings
        self._lock = RenewedLock(job_store.redis, LOCK, LOCK_SECONDS)
        self._storage_failed = False  # in the present check of all jobs

    def step(self) -> None:
        """Check all due jobs, unless Redis started so recently that workers could not renew their leases yet."""
        server = cast(dict[str, int], self._job_store.redis.info("server"))
        if server["uptime_in_seconds"] >= self._settings.lease_seconds:
            self.check_due_jobs()

    def check_due_jobs(self) -> None:
        """Check all due jobs once; none while another process does."""
        with self._lock.acquired() as acquired:
            if not acquired:
                return
            self._storage_failed = False
            self._queue.defer_checks(self._job_store.check_after_ms)
            for record in self._job_store.overdue():
                if not self._lock.is_held():
                    log.warning("reconciler stopped, because its lock may have expired")
                    return
                self._check(record)

    def _check(self, record: JobRecord) -> None:
        """Check one job. Its errors do not keep the others from their check, except those of Redis."""
        with structlog.contextvars.bound_contextvars(**record.log_fields):
            try:
                self._reconcile(record)
            except RedisError:
                raise
            except Exception:
                log.exception("job not reconciled")

    def _reconcile(self, record: JobRecord) -> None:
        if record.status is JobStatus.queued and (self._queue.enqueue_waiting(record) or self._queue.contains(record)):
            self._job_store.defer_overdue(record)
            return
        shards = self._state_of_shards(record) if record.is_in_shards else None
        if shards is not None and self._leaves_to_shards(record, shards):
            self._job_store.defer_overdue_shards(record)
            return
        if record.attempt:
            if self._storage_failed:
                return  # the next check asks again; else each job would wait for storage in turn
            try:
                if self._finish_from_storage(record):
                    return
            except StorageUnavailable:
                self._storage_failed = True
                log.exception("storage does not say whether the job has a result")
                return
        if record.status is not JobStatus.queued:
            self._queue.kill(record)
        error = self._reason_to_fail(record, is_given_up=shards is ShardsState.failed)
        if error is None:
            self._requeue(record)
        else:
            self._fail(record, error)

    def _state_of_shards(self, record: JobRecord) -> ShardsState:
        """What has become of the shards. RQ is asked twice before any counts as lost: one may be between two places."""
        state = ShardsState.lost
        for _ in range(2):
            known = self._queue.known()
            state = known.state_of(self._job_store.get(record.tenant, record.id))
            if state in (ShardsState.running, ShardsState.waiting):
                break
        return state

    def _leaves_to_shards(self, record: JobRecord, shards: ShardsState) -> bool:
        """Whether the processes of the shards notice by themselves what becomes of the job."""
        if shards is ShardsState.waiting:  # no process is there to notice
            return record.status is JobStatus.running and not self._is_late(record)
        return shards is ShardsState.running

    def _is_late(self, record: JobRecord) -> bool:
        return self._job_store.seconds_since_start(record) > record.request.deadline_seconds

    def _finish_from_storage(self, record: JobRecord) -> bool:
        """End a job whose result is in storage: its worker died after it wrote the manifest and before the record."""
        storage = self._storage()
        result = committed_result(storage, record.tenant, record.id)
        if result is None:
            return False
        # Before the record changes: a finished job is not checked again.
        delete_attempts(storage, record.tenant, record.id, record.attempt)
        if not self._job_store.succeed_overdue(record, result):
            return False
        log.warning("job finished in place of its lost worker")
        self._delete_files_without_result(record)
        if self._job_store.get(record.tenant, record.id).status is JobStatus.succeeded:
            record_usage(self._job_store.redis, storage, record.tenant, record.id)
        return True

    def _reason_to_fail(self, record: JobRecord, *, is_given_up: bool = False) -> TaskslimError | None:
        """Why the job gets no further attempt; None where it gets one. `is_given_up`: one of its shards does not."""
        if is_given_up:
            return WorkerLost(
                f"the worker died in each of {SHARD_RETRIES + 1} attempts of a shard; it may lack memory for this model"
            )
        if record.lost + 1 >= self._settings.max_attempts:
            return WorkerLost(
                f"the worker died in each of {record.lost + 1} attempts; it may lack memory for this model"
            )
        return deadline_exceeded(record.request.deadline_seconds) if self._is_late(record) else None

    def _requeue(self, record: JobRecord) -> None:
        """Requeue the job; one that was cancelling ends as cancelled instead."""
        if not self._job_store.requeue_overdue(record):
            return
        now = self._job_store.get(record.tenant, record.id)
        log.warning("attempt lost", status=now.status)
        self._queue.remove_waiting(record)
        if now.status is JobStatus.queued:
            self._queue.remove(now)  # an RQ job of the same attempt that no worker holds any more
            self._queue.enqueue(now)
        else:
            self._delete_files_without_result(record)

    def _fail(self, record: JobRecord, error: TaskslimError) -> None:
        if self._job_store.fail_overdue(record, JobError(code=error.code, message=error.message, param=error.param)):
            log.error("job failed by the reconciler", code=error.code)
            self._queue.remove_waiting(record)
            self._delete_files_without_result(record)

    def _delete_files_without_result(self, record: JobRecord) -> None:
        """Delete the files of a job that failed or was cancelled."""
        status = self._job_store.get(record.tenant, record.id).status
        if status in (JobStatus.failed, JobStatus.cancelled):
            delete_job_files(self._storage(), record.tenant, record.id)

    def _storage(self) -> Storage:
        return Storage(self._settings.artifacts_url, retry_seconds=STORAGE_RETRY_SECONDS)
