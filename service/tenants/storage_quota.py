"""What one tenant may use: requests in a window, jobs waiting and running, bytes stored, streams open.

Limits hold only for callers with a key: on loopback without one there is nobody to protect from anybody. How many jobs
of a tenant run at the same time (`service.jobs.tenant_slots`) and how many streams it has open is limited for all: it
is how the workers and the connections are shared. Redis: `slim:{tenant}:requests` counts the present window's requests,
`slim:{tenant}:bytes` maps item -> bytes.
"""

from typing import cast

from redis import Redis

from service.contract.errors import LimitExceeded
from service.infrastructure.redis_scripts import load_script

# The sum is kept beside the items, so that reading it costs the same for one job and for a hundred thousand.
TOTAL = "total"
REMEDY = "delete jobs or data sets that you need no longer"


class StoredBytes:
    """How much each tenant has in the object store, item by item: an item is a job's artifacts, its inline rows, a data
    set or a score set."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._record = load_script(redis, "service.tenants", "record_bytes")

    def used(self, tenant: str) -> int:
        return int(cast(str | None, self._redis.hget(bytes_key(tenant), TOTAL)) or 0)

    def check_quota(self, tenant: str, quota: int) -> None:
        """Raise `LimitExceeded` when the tenant's store is full."""
        used = self.used(tenant)
        if used >= quota:
            raise LimitExceeded(f"{used} of {quota} bytes are in use; {REMEDY}")

    def reserve_bytes(self, tenant: str, item: str, size: int, quota: int | None) -> None:
        """Record `size` bytes before they are stored. Raises `LimitExceeded`, and records nothing, where they would
        take the tenant over `quota`; None holds nobody."""
        done, used = self._record(keys=[bytes_key(tenant)], args=[item, size, "" if quota is None else quota])
        if not done:
            raise LimitExceeded(f"{used} of {quota} bytes are in use and {size} more do not fit; {REMEDY}")

    def record(self, tenant: str, item: str, size: int) -> None:
        """Say that `item` holds `size` bytes, 0 once it is deleted. Saying it again changes nothing."""
        self.reserve_bytes(tenant, item, size, None)


def bytes_key(tenant: str) -> str:
    return f"slim:{tenant}:bytes"
