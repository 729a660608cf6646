"""Which widths were found possible a moment ago, so that many jobs on one model do not read its headers each.

What it remembers only spares a check that the worker makes again: a model that changed meanwhile fails its job there.
"""

import time

from service.admission import Access
from service.plans import project
from service.schemas import JobRequest

KNOWN_SECONDS = 60.0
MAX_KNOWN = 1000


class Possible:
    """Checks the widths that requests ask for; one for each process."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}  # what decides the widths -> when they were found possible

    def check(self, request: JobRequest, access: Access) -> None:
        """Raise what `project` raises for a request that `admit` has let through."""
        parts = (request.model, request.method, request.target, request.output)
        decides = "".join(part.model_dump_json() for part in parts)
        if time.monotonic() - self._known.get(decides, -KNOWN_SECONDS) < KNOWN_SECONDS:
            return
        project(request, access)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[decides] = time.monotonic()
