"""The readiness check. It needs no key, so its result is cached: Redis and the store are not checked each time."""

import asyncio
import time
from collections.abc import Callable

from redis import RedisError

from service.contract.answers.catalog import Check, Health
from service.contract.errors import StorageUnavailable
from service.infrastructure.redis_client import connect
from service.infrastructure.worker_registry import live_workers
from service.storage.object_store import Storage

# Whether the check succeeded -> seconds for which its result is used. A failure is checked again sooner.
CACHE_SECONDS = {True: 3.0, False: 1.0}


class Readiness:
    """The result of the last check. Requests during a check wait for it."""

    def __init__(self, redis_url: str, storage: Storage) -> None:
        self._redis_url, self._storage = redis_url, storage
        self._lock = asyncio.Lock()
        self._health = Health(ok=False)
        self._until = time.monotonic()

    async def health(self) -> Health:
        """Whether Redis and the object store answered at the last check."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._health = await asyncio.to_thread(self._check_all)
                self._until = time.monotonic() + CACHE_SECONDS[self._health.ok]
            return self._health

    def _check_all(self) -> Health:
        with connect(self._redis_url, retries=0) as redis:  # a probe must not wait
            checks = {"redis": _check(redis.ping), "storage": _check(self._storage.check)}
            idle = checks["redis"].ok and not live_workers(redis)
        warnings = ["no live worker: jobs wait in the queue"] if idle else []
        return Health(ok=all(check.ok for check in checks.values()), checks=checks, warnings=warnings)


def _check(probe: Callable[[], object]) -> Check:
    try:
        probe()
    except (RedisError, StorageUnavailable) as error:
        return Check(ok=False, reason=str(error) or type(error).__name__)
    return Check(ok=True)
