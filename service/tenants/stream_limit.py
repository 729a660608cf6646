"""The limit on event streams and waits of one tenant that are open at the same time."""

import threading
from collections import Counter

from service.contract.errors import LimitExceeded


class StreamLimit:
    """Of this process: each event stream and each wait takes one as long as it is open. A tenant has at most `each`,
    all of them together at most `most`."""

    def __init__(self, per_tenant: int, in_all: int) -> None:
        self._per_tenant = per_tenant
        self._in_all = in_all
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def acquire(self, tenant: str) -> None:
        """Raise `LimitExceeded` where none is free."""
        with self._lock:
            if self._taken[tenant] >= self._per_tenant:
                raise LimitExceeded(
                    f"{self._per_tenant} event streams and waits of this tenant are open, the most allowed; close one"
                )
            if self._taken.total() >= self._in_all:
                raise LimitExceeded("the server has as many event streams and waits open as it can; come back later")
            self._taken[tenant] += 1

    def release(self, tenant: str) -> None:
        with self._lock:
            self._taken[tenant] -= 1
            self._taken += Counter()  # forgets tenants that have none
