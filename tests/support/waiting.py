"""Waits for conditions, never for time."""

import time
from collections.abc import Callable

DEADLINE_SECONDS = 300  # of one wait. A loaded machine needs it; a wait ends as soon as its condition holds.


def wait_until(condition: Callable[[], object], deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Return once `condition` holds; fail the test when it does not hold in time."""
    end = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_seconds} s: {condition}"
        time.sleep(0.02)
