"""The limit on the event streams and waits that are open at the same time."""

import threading
from collections import Counter

from service.contract.errors import LimitExceeded


class StreamLimit:
    """Counts the event streams and waits that are open in this process: at most `per_tenant`, and `in_all` together."""

    def __init__(self, per_tenant: int, in_all: int) -> None:
        self._per_tenant = per_tenant
        self._in_all = in_all
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def acquire(self, tenant: str) -> None:
        """Count one more. Raises LimitExceeded where that passes a limit."""
        with self._lock:
            if self._taken[tenant] >= self._per_tenant:
                raise LimitExceeded(
                    f"{self._per_tenant} event streams and waits of this tenant are open, the most allowed; close one"
                )
            if self._taken.total() >= self._in_all:
                raise LimitExceeded(
                    "the server has the most event streams and waits open that it allows; try again later"
                )
            self._taken[tenant] += 1

    def release(self, tenant: str) -> None:
        """Count one less."""
        with self._lock:
            self._taken[tenant] -= 1
            self._taken += Counter()  # drops tenants that have none
