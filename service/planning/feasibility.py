"""Which widths were found possible a moment ago, so that many jobs on one model do not read its headers each.

What it remembers only spares a check that the worker makes again: a model that changed meanwhile fails its job there.
"""

import time
from concurrent.futures import Future
from threading import Thread

import structlog

from service.contract.errors import StorageUnavailable
from service.contract.request import JobRequest
from service.planning.checkpoint import describes_itself
from service.planning.plan import project
from service.sources.access import Access
from service.sources.hub import NotShown

KNOWN_SECONDS = 60.0
MAX_KNOWN = 1000
HUB_SECONDS = 5.0  # a client waits for the answer
HUB_REST_SECONDS = 60.0  # a hub that did not answer is left alone for so long

log = structlog.get_logger()


class Feasibility:
    """Checks the widths that requests ask for; one for each process."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}  # what decides the widths -> when they were found possible
        self._rests_until = 0.0

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

    def check_on_hub(self, request: JobRequest, access: Access) -> None:
        """As `check`, for a model on a hub, where that shows the model's small files in time."""
        if time.monotonic() < self._rests_until:
            return
        looked = Future[None]()
        # A daemon, so that a hub which keeps it waiting does not keep the process from its end.
        Thread(target=self._look, args=(request, access, looked), daemon=True).start()
        try:
            looked.result(HUB_SECONDS)
        except (StorageUnavailable, TimeoutError):
            self._rests_until = time.monotonic() + HUB_REST_SECONDS
            log.info("the hub does not answer: what it holds is left to the worker")
        except NotShown as error:
            log.info("left to the worker", reason=error.message)

    def _look(self, request: JobRequest, access: Access, looked: Future[None]) -> None:
        try:
            if describes_itself(request.model):
                self.check(request, access)
            looked.set_result(None)
        except BaseException as error:
            looked.set_exception(error)
