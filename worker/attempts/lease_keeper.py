"""Keeps the lease of a running attempt, and determines when the attempt must end and why.

The pipeline calls `check` wherever it reports progress. Where it does not call for the grace period after the attempt
was to end (it hangs, or computes for minutes), the heartbeat thread writes the ending and exits the process.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

from service.contract.answers.job import JobStatus, Stage
from service.infrastructure.background_threads import repeating
from service.jobs.leases import Lease, LeaseLost, deadline_exceeded
from service.jobs.store import JobStore
from service.settings import Settings
from worker.attempts.endings import Cancelled, Ending, EndingWriter

log = structlog.get_logger()


class LeaseKeeper:
    """Sends heartbeats from a thread of its own, and raises in the pipeline what the attempt must end with.

    The same thread checks the deadline, so that `job_store` should give up soon when Redis does not respond. `endings`
    writes the ending of an attempt that is stuck.
    """

    def __init__(self, job_store: JobStore, lease: Lease, settings: Settings, endings: EndingWriter) -> None:
        self._job_store, self._lease, self._settings, self._endings = job_store, lease, settings, endings
        self._deadline = time.monotonic() + lease.job.request.deadline_seconds - lease.spent_seconds
        self.stage: Stage | None = None  # the present stage of the pipeline
        self._ending: Ending | None = None
        self._requested_at: float | None = None  # when the thread first saw the ending
        self._end_once = threading.Lock()  # acquired by the thread that ends the attempt, and never released

    def check(self) -> None:
        """Raise the ending of the attempt, if it must end."""
        if self._ending is not None:
            raise self._ending

    def request_end(self, ending: Ending) -> None:
        """Make the next `check` raise `ending`. The first ending counts, but a lost lease replaces any other."""
        if self._ending is None or isinstance(ending, LeaseLost):
            self._ending = ending

    def note_status(self, status: JobStatus) -> None:
        """Request the end of the attempt where a write to the record returned the status `cancelling`."""
        if status is JobStatus.cancelling:
            self.request_end(Cancelled("the job was cancelled"))

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats and check the deadline during the block. After it, the caller ends the attempt."""
        with repeating("heartbeat", self._watch, self._settings.heartbeat_seconds):
            try:
                yield
            finally:
                self._end_once.acquire()  # while the thread may still run: it must not end an attempt that has ended

    def _watch(self) -> None:
        """Send one heartbeat; end an attempt that is stuck."""
        self._send_heartbeat()
        self._check_deadline()
        if self._ending is None:
            return
        self._requested_at = self._requested_at or time.monotonic()
        if time.monotonic() - self._requested_at > self._settings.cancel_grace_seconds:
            self._end_stuck_attempt(self._ending)

    def _send_heartbeat(self) -> None:
        try:
            self.note_status(self._job_store.heartbeat(self._lease))
        except LeaseLost as lost:
            self.request_end(lost)
        except redis.RedisError as error:
            log.warning("heartbeat not sent", error=str(error))

    def _check_deadline(self) -> None:
        if time.monotonic() <= self._deadline:
            return
        seconds = self._lease.job.request.deadline_seconds
        during = f" and was in the stage {self.stage}" if self.stage else ""
        self.request_end(deadline_exceeded(seconds, during))

    def _end_stuck_attempt(self, ending: Ending) -> None:
        """Write the ending in place of the main thread, and exit the process."""
        if not self._end_once.acquire(blocking=False):
            return
        log.warning("the attempt did not end within the grace period", reason=type(ending).__name__)
        try:
            self._endings.write(ending)
        finally:
            os._exit(1)
