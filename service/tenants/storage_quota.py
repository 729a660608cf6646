"""The limit on the bytes that a tenant has in the object store.

Redis: `slim:{tenant}:bytes` maps each item to its bytes, and `total` to their sum. Limits of tenants hold for callers
with a key; only slots (`service.jobs.tenant_slots`) and streams (`stream_limit`), which share workers and connections,
are limited for all.
"""

from typing import cast

from redis import Redis

from service.contract.errors import LimitExceeded
from service.infrastructure.redis_scripts import load_script

TOTAL = "total"  # field of the sum of all items
REMEDY = "delete jobs or data sets that are no longer needed"


class StoredBytes:
    """The bytes of each item of a tenant: a job's artifacts, a job's inline rows, a data set or a score set."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._record = load_script(redis, "service.tenants", "record_bytes")

    def used(self, tenant: str) -> int:
        """The sum of all items of a tenant."""
        return int(cast(str | None, self._redis.hget(bytes_key(tenant), TOTAL)) or 0)

    def check_quota(self, tenant: str, quota: int) -> None:
        """Raise LimitExceeded where the tenant has used its quota."""
        used = self.used(tenant)
        if used >= quota:
            raise LimitExceeded(f"{used} of {quota} bytes are in use; {REMEDY}")

    def reserve_bytes(self, tenant: str, item: str, size: int, quota: int | None) -> None:
        """Record the size of an item before it is stored. Raises LimitExceeded where that passes `quota` (None: no
        quota); then nothing is recorded."""
        done, used = self._record(keys=[bytes_key(tenant)], args=[item, size, "" if quota is None else quota])
        if not done:
            raise LimitExceeded(f"{used} of {quota} bytes are in use and {size} more do not fit; {REMEDY}")

    def record(self, tenant: str, item: str, size: int) -> None:
        """Record the size of an item, 0 after its deletion. A second call with the same size changes nothing."""
        self.reserve_bytes(tenant, item, size, None)


def bytes_key(tenant: str) -> str:
    """The hash of a tenant's items."""
    return f"slim:{tenant}:bytes"
