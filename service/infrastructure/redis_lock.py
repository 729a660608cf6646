"""A lock in Redis that only one process holds, for work that may take long.

The lock expires when its holder dies. As long as the holder lives, a thread renews it, so the work may take longer than
the lock's time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from redis import Redis
from redis.exceptions import LockError

from service.infrastructure.background_threads import repeating

NEVER = float("-inf")

log = structlog.get_logger()


class RenewedLock:
    """A lock that expires `seconds` after its last renewal and is renewed three times in that time."""

    def __init__(self, redis: Redis, name: str, seconds: float) -> None:
        self._name, self._seconds = name, seconds
        self._lock = redis.lock(name, timeout=seconds, blocking=False, thread_local=False)
        self._renewed_at = NEVER  # monotonic; before the call, so that the lock holds at least as long as this says

    @contextmanager
    def acquired(self) -> Iterator[bool]:
        """Hold the lock while the block runs; False where another process holds it."""
        before = time.monotonic()
        if not self._lock.acquire():
            yield False
            return
        self._renewed_at = before
        try:
            with repeating(f"renewal of {self._name}", self._renew, self._seconds / 3):
                yield True
        finally:
            self._release()

    def is_held(self) -> bool:
        """Whether this object holds the lock and it cannot have expired since its last renewal."""
        return time.monotonic() - self._renewed_at < self._seconds

    def _renew(self) -> None:
        before = time.monotonic()
        try:
            self._lock.reacquire()
        except LockError:
            self._renewed_at = NEVER
            log.warning("lock lost", lock=self._name)
        else:
            self._renewed_at = before

    def _release(self) -> None:
        self._renewed_at = NEVER
        try:
            self._lock.release()
        except LockError:
            log.warning("lock expired before it was released", lock=self._name)
