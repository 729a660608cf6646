"""The limit on the requests of a tenant in a window of time."""

from dataclasses import dataclass

from redis import Redis

from service.contract.errors import TooManyRequests
from service.infrastructure.redis_scripts import load_script

ROUND_UP_MS = 999


@dataclass(frozen=True)
class Window:
    """The state of a tenant's present window of time."""

    quota: int
    window_seconds: int
    used: int
    reset_seconds: int

    @property
    def remaining(self) -> int:
        """How many requests are left in the window."""
        return max(0, self.quota - self.used)

    def headers(self) -> dict[str, str]:
        """The response headers by the IETF draft "RateLimit header fields for HTTP", revision 8 and later."""
        return {
            "RateLimit-Policy": f'"requests";q={self.quota};w={self.window_seconds}',
            "RateLimit": f'"requests";r={self.remaining};t={self.reset_seconds}',
        }


class RequestLimit:
    """Counts the requests of tenants, which may send `quota` in a window of `window_seconds`."""

    def __init__(self, redis: Redis, *, quota: int, window_seconds: int) -> None:
        self._quota = quota
        self._window_seconds = window_seconds
        self._count = load_script(redis, "service.tenants", "count_request")

    def count_request(self, tenant: str) -> Window:
        """Count a request, whether or not it is within the quota."""
        used, left_ms = self._count(keys=[f"slim:{tenant}:requests"], args=[self._window_seconds * 1000])
        return Window(self._quota, self._window_seconds, used, (left_ms + ROUND_UP_MS) // 1000)


def check_request_limit(window: Window) -> None:
    """Raise TooManyRequests for a request over the quota."""
    if window.used > window.quota:
        raise TooManyRequests(
            f"{window.quota} requests in {window.window_seconds} s are allowed; "
            f"send the next in {window.reset_seconds} s",
            retry_after_seconds=window.reset_seconds,
        )
