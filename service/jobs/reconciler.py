"""Finds jobs whose worker died, and jobs that the queue lost, and sees that they go on or end.

A thread of the API process. Several may run: a lock in Redis lets one act at a time, and every step is an atomic change
of the record that only the first can make.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import structlog
from redis import RedisError

from service.contract.errors import DeadlineExceeded, StorageUnavailable, TaskslimError, WorkerLost
from service.contract.job import JobError, JobStatus
from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.jobs.record import JobRecord
from service.jobs.store import JobStore
from service.jobs.usage import record_usage
from service.settings import Settings
from service.storage.keys import job_prefix
from service.storage.manifests import committed_result, delete_attempts
from service.storage.object_store import Storage

LOCK = "slim:reconciler"
LOCK_SECONDS = 60
STORAGE_RETRY_SECONDS = 5  # the other jobs wait; the next look comes soon

log = structlog.get_logger()


@contextmanager
def reconciling(settings: Settings) -> Iterator[None]:
    """Reconciles in a thread while the block runs. `settings` name a Redis."""
    job_store = JobStore(connect(settings.redis_url), lease_seconds=settings.lease_seconds)
    queue = JobQueue(connect(settings.redis_url, decode=False), max_running=settings.max_running_jobs)
    reconciler = Reconciler(job_store, queue, settings)
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,), name="reconciler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=settings.reconcile_seconds)


class Reconciler:
    """Looks at every job that has been silent for a lease's time."""

    def __init__(self, job_store: JobStore, queue: JobQueue, settings: Settings) -> None:
        self._job_store, self._queue, self._settings = job_store, queue, settings
        self._lock = job_store.redis.lock(LOCK, timeout=LOCK_SECONDS, blocking=False)

    def run(self, stop: threading.Event) -> None:
        """Looks every `reconcile_seconds` until `stop` is set. Whatever goes wrong in one look, the next follows."""
        while not stop.wait(self._settings.reconcile_seconds):
            try:
                if not self._returned_lately():
                    self.look()
            except Exception:
                log.exception("reconciliation failed")

    def look(self) -> None:
        """One look at all silent jobs; none while another process looks."""
        if not self._lock.acquire():
            return
        try:
            self._queue.defer_checks(self._job_store.check_after_ms)
            for record in self._job_store.overdue():
                self._try(record)
        finally:
            self._lock.release()

    def _returned_lately(self) -> bool:
        """Whether Redis was away, so that leases ran out which nobody could renew: workers have their say first."""
        server = cast(dict[str, int], self._job_store.redis.info("server"))
        return server["uptime_in_seconds"] < self._settings.lease_seconds

    def _try(self, record: JobRecord) -> None:
        """One job's trouble is not that of the others; what Redis cannot do now, it can do for none of them."""
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
        try:
            if record.attempt and self._finish(record):
                return
        except StorageUnavailable:
            log.exception("cannot tell whether the job has a result")
            return
        if record.status is not JobStatus.queued:
            self._queue.kill(record)
        error = self._verdict(record)
        if error is None:
            self._next_attempt(record)
        else:
            self._give_up(record, error)

    def _finish(self, record: JobRecord) -> bool:
        """Ends a job that has its result in storage: its worker died between the manifest and the record."""
        storage = self._storage()
        result = committed_result(storage, record.tenant, record.id)
        if result is None:
            return False
        delete_attempts(storage, record.tenant, record.id, record.attempt)  # first: later nobody would come back for it
        if not self._job_store.succeed_overdue(record, result):
            return False
        log.warning("finished for a lost worker")
        self._delete_if_fruitless(record)
        if self._job_store.get(record.tenant, record.id).status is JobStatus.succeeded:
            record_usage(self._job_store.redis, storage, record.tenant, record.id)
        return True

    def _verdict(self, record: JobRecord) -> TaskslimError | None:
        """Why the job gets no further attempt, if it gets none."""
        if record.lost + 1 >= self._settings.max_attempts:
            return WorkerLost(
                f"the worker died in each of {record.lost + 1} attempts; it may lack memory for this model"
            )
        seconds = record.request.deadline_seconds
        if self._job_store.seconds_since_start(record) > seconds:
            return DeadlineExceeded(f"the job ran longer than its {seconds} seconds", param="deadline_seconds")
        return None

    def _next_attempt(self, record: JobRecord) -> None:
        """Back to the queue; a job that was cancelling ends as cancelled instead."""
        if not self._job_store.requeue_overdue(record):
            return
        now = self._job_store.get(record.tenant, record.id)
        log.warning("worker lost", status=now.status)
        if now.status is JobStatus.queued:
            self._queue.remove(now)  # an entry of the same attempt that no worker holds any more
            self._queue.enqueue(now)
        else:
            self._delete_if_fruitless(record)

    def _give_up(self, record: JobRecord, error: TaskslimError) -> None:
        if self._job_store.fail_overdue(record, JobError(code=error.code, message=error.message, param=error.param)):
            log.error("job given up", code=error.code)
            self._delete_if_fruitless(record)

    def _delete_if_fruitless(self, record: JobRecord) -> None:
        """Deletes every file of a job that ended without a result."""
        status = self._job_store.get(record.tenant, record.id).status
        if status in (JobStatus.failed, JobStatus.cancelled):
            try:
                self._storage().delete_prefix(job_prefix(record.tenant, record.id))
            except StorageUnavailable:
                log.exception("files of the job were left behind")

    def _storage(self) -> Storage:
        return Storage(self._settings.artifacts_url, retry_seconds=STORAGE_RETRY_SECONDS)
