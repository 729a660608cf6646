"""One attempt of a job while it runs: it keeps the lease, and knows when it must end and why.

The pipeline asks `check` wherever it reports progress. If it does not come by for a while after the attempt was to end
(it hangs, or computes for minutes on end), the thread that sends the heartbeats ends the attempt and the process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import redis
import structlog

from service.contract.errors import DeadlineExceeded, TaskslimError
from service.contract.job import JobStatus, Stage
from service.jobs.store import JobStore, Lease, LeaseLost
from service.settings import Settings

log = structlog.get_logger()


class Cancelled(Exception):
    """The client asked for the end of the job."""


class HandedBack(Exception):
    """The worker is to stop: another takes the job."""


Ending = Cancelled | HandedBack | LeaseLost | TaskslimError


class Attempt:
    """`settle` ends the attempt for good where the pipeline does not; it runs in another thread.

    `records` should not wait long for Redis: the deadline is minded by the same thread.
    """

    def __init__(self, job_store: JobStore, lease: Lease, settings: Settings, settle: Callable[[Ending], None]) -> None:
        self._job_store, self._lease, self._settings, self._settle = job_store, lease, settings, settle
        self._deadline = time.monotonic() + lease.job.request.deadline_seconds - lease.spent_seconds
        self.stage: Stage | None = None  # what the pipeline is at
        self._ending: Ending | None = None
        self._over = threading.Event()
        self._settling = threading.Lock()  # taken once, by whoever settles the attempt, and never given back

    def check(self) -> None:
        """Raises what the attempt must end with, if it must."""
        if self._ending is not None:
            raise self._ending

    def end(self, ending: Ending) -> None:
        """Lets the next `check` raise `ending`; the first reason counts, but a lost lease outdoes every other."""
        if self._ending is None or isinstance(ending, LeaseLost):
            self._ending = ending

    def note_status(self, status: JobStatus) -> None:
        """Takes notice of the status that a write answered with."""
        if status is JobStatus.cancelling:
            self.end(Cancelled("the job was cancelled"))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sends heartbeats and minds the deadline while the block runs; settling is then up to the caller."""
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            self._settling.acquire()

    def _watch(self) -> None:
        ended_at: float | None = None
        while not self._over.wait(self._settings.heartbeat_seconds):
            self._beat()
            if self._ending is None:
                continue
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at > self._settings.cancel_grace_seconds:
                self._abandon(self._ending)

    def _beat(self) -> None:
        try:
            self.note_status(self._job_store.heartbeat(self._lease))
        except LeaseLost as lost:
            self.end(lost)
        except redis.RedisError as error:
            log.warning("no heartbeat", error=str(error))
        if time.monotonic() > self._deadline:
            seconds = self._lease.job.request.deadline_seconds
            at = f", and was at the stage {self.stage}" if self.stage else ""
            self.end(DeadlineExceeded(f"the job ran longer than its {seconds} seconds{at}", param="deadline_seconds"))

    def _abandon(self, ending: Ending) -> None:
        """The main thread is stuck: settles in its place, and takes the process with it."""
        if not self._settling.acquire(blocking=False):
            return
        log.warning("the attempt did not end by itself", reason=type(ending).__name__)
        try:
            self._settle(ending)
        finally:
            os._exit(1)


@contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` on SIGTERM, also on one that came before the process was ready to take it."""

    def take(_: int, __: FrameType | None) -> None:
        act()

    before = signal.signal(signal.SIGTERM, take)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
