"""Threads that repeat a step beside the main work of a process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from service.infrastructure.redis_client import OUTAGES

STOP_SECONDS = 5  # longest wait for a step that is under way; every step can be repeated by the next process

log = structlog.get_logger()


@contextmanager
def repeating(name: str, step: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call `step` in a thread of this name while the block runs: every `seconds`, or at once where there may be more.

    A step says so by a true result, such as the number of items that it has dealt with. An exception of the step is
    logged, and the next call follows after the pause.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_repeat, args=(name, step, seconds, stop), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOP_SECONDS)


def _repeat(name: str, step: Callable[[], object], seconds: float, stop: threading.Event) -> None:
    pause = seconds
    while not stop.wait(pause):
        try:
            pause = 0.0 if step() else seconds
        except OUTAGES:
            pause = seconds
            log.warning("background step waits for Redis", step=name, exc_info=True)
        except Exception:
            pause = seconds
            log.exception("background step failed", step=name)
