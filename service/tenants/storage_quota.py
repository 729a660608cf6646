"""What one tenant may use: requests in a window, jobs waiting and running, bytes stored, streams open.

Limits hold only for callers with a key: on loopback without one there is nobody to protect from anybody. How many jobs
of a tenant run at the same time (`service.jobs.tenant_slots`) and how many streams it has open is limited for all: it
is how the workers and the connections are shared. Redis: `slim:{tenant}:requests` counts the present window's requests,
`slim:{tenant}:bytes` maps item -> bytes.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import cast

from redis import Redis

from service.contract.errors import LimitExceeded, TooManyRequests

# The window starts with its first request and ends with the key. A key without an end would shut a tenant out for
# ever, so one that lost it (a copied or hand-edited database) gets a new one.
COUNT = """
local used = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {used, left}
"""
ROUND_UP_MS = 999

# The sum is kept beside the items, so that reading it costs the same for one job and for a hundred thousand.
TOTAL = "total"
REMEDY = "delete jobs or data sets that you need no longer"
RECORD_SIZE = """
local before = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local used = tonumber(redis.call('HGET', KEYS[1], 'total') or '0')
local size, quota = tonumber(ARGV[2]), tonumber(ARGV[3])
if quota and size > before and used + size - before > quota then return {0, used} end
if size > 0 then redis.call('HSET', KEYS[1], ARGV[1], size) else redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('HINCRBY', KEYS[1], 'total', size - before)
return {1, used}
"""


@dataclass(frozen=True)
class Window:
    """The state of a tenant's present window, and the headers that tell a client about it."""

    quota: int
    window_seconds: int
    used: int
    reset_seconds: int

    @property
    def remaining(self) -> int:
        return max(0, self.quota - self.used)

    def headers(self) -> dict[str, str]:
        """The RateLimit fields of the IETF draft "RateLimit header fields for HTTP" (revision 8 and later)."""
        return {
            "RateLimit-Policy": f'"requests";q={self.quota};w={self.window_seconds}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset_seconds}',
        }


class RequestLimit:
    """At most `quota` requests of a tenant in a window of `window_seconds`."""

    def __init__(self, redis: Redis, *, quota: int, window_seconds: int) -> None:
        self._quota = quota
        self._window_seconds = window_seconds
        self._count = redis.register_script(COUNT)

    def count(self, tenant: str) -> Window:
        """Count one request, over the quota or not."""
        used, left_ms = self._count(keys=[f"slim:{tenant}:requests"], args=[self._window_seconds * 1000])
        return Window(self._quota, self._window_seconds, used, (left_ms + ROUND_UP_MS) // 1000)


def admit(window: Window) -> None:
    """Raise `TooManyRequests` for a request over the quota."""
    if window.used > window.quota:
        raise TooManyRequests(
            f"{window.quota} requests in {window.window_seconds} s are allowed; "
            f"send the next in {window.reset_seconds} s",
            retry_after_seconds=window.reset_seconds,
        )


class Places:
    """Of this process: each event stream and each wait takes one as long as it is open. A tenant has at most `each`,
    all of them together at most `most`."""

    def __init__(self, each: int, most: int) -> None:
        self._each = each
        self._most = most
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, tenant: str) -> None:
        """Raise `LimitExceeded` where none is free."""
        with self._lock:
            if self._taken[tenant] >= self._each:
                raise LimitExceeded(f"{self._each} event streams and waits are open, as many as may be; close one")
            if self._taken.total() >= self._most:
                raise LimitExceeded("the server has as many event streams and waits open as it can; come back later")
            self._taken[tenant] += 1

    def give_back(self, tenant: str) -> None:
        with self._lock:
            self._taken[tenant] -= 1
            self._taken += Counter()  # forgets tenants that have none


class StoredBytes:
    """How much each tenant has in the object store, item by item: an item is a job's artifacts, its inline rows, a data
    set or a score set."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._record = redis.register_script(RECORD_SIZE)

    def used(self, tenant: str) -> int:
        return int(cast(str | None, self._redis.hget(bytes_key(tenant), TOTAL)) or 0)

    def admit(self, tenant: str, quota: int) -> None:
        """Raise `LimitExceeded` when the tenant's store is full."""
        used = self.used(tenant)
        if used >= quota:
            raise LimitExceeded(f"{used} of {quota} bytes are in use; {REMEDY}")

    def reserve(self, tenant: str, item: str, size: int, quota: int | None) -> None:
        """Record `size` bytes before they are stored. Raises `LimitExceeded`, and records nothing, where they would
        take the tenant over `quota`; None holds nobody."""
        done, used = self._record(keys=[bytes_key(tenant)], args=[item, size, "" if quota is None else quota])
        if not done:
            raise LimitExceeded(f"{used} of {quota} bytes are in use and {size} more do not fit; {REMEDY}")

    def record(self, tenant: str, item: str, size: int) -> None:
        """Say that `item` holds `size` bytes, 0 once it is deleted. Saying it again changes nothing."""
        self.reserve(tenant, item, size, None)


def bytes_key(tenant: str) -> str:
    return f"slim:{tenant}:bytes"
