"""Whether the process can take and serve jobs. Anyone may ask as often as they like; Redis and the store are not asked
each time."""

import asyncio
import time
from collections.abc import Callable

from redis import RedisError

from service.contract.catalog import Check, Health
from service.contract.errors import StorageUnavailable
from service.infrastructure.redis_client import connect
from service.infrastructure.worker_registry import live_workers
from service.storage.object_store import Storage

# Whether all was well -> seconds for which the answer is given again. What is mended should be seen soon.
TRUST_SECONDS = {True: 3.0, False: 1.0}


class Readiness:
    """What was seen at the last look, for those who ask soon after it; those who ask during a look wait for it."""

    def __init__(self, redis_url: str, storage: Storage) -> None:
        self._redis_url, self._storage = redis_url, storage
        self._look = asyncio.Lock()
        self._health = Health(ok=False)
        self._until = time.monotonic()

    async def health(self) -> Health:
        """Whether Redis and the object store answer, as of a moment ago."""
        async with self._look:
            if time.monotonic() >= self._until:
                self._health = await asyncio.to_thread(self._ask)
                self._until = time.monotonic() + TRUST_SECONDS[self._health.ok]
            return self._health

    def _ask(self) -> Health:
        with connect(self._redis_url, retries=0) as redis:  # a probe wants an answer now
            checks = {"redis": _check(redis.ping), "storage": _check(self._storage.check)}
            idle = checks["redis"].ok and not live_workers(redis)
        warnings = ["no live worker: jobs wait in the queue"] if idle else []
        return Health(ok=all(check.ok for check in checks.values()), checks=checks, warnings=warnings)


def _check(ask: Callable[[], object]) -> Check:
    try:
        ask()
    except (RedisError, StorageUnavailable) as error:
        return Check(ok=False, reason=str(error) or type(error).__name__)
    return Check(ok=True)
