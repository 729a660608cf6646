"""Waits for conditions, never for time."""

import time
from collections.abc import Callable

DEADLINE_SECONDS = 120  # of one wait; long, because a loaded machine is slow and a condition that holds ends the wait


def wait_until(condition: Callable[[], object], deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Return once `condition` holds; fail the test when it does not hold in time."""
    end = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_seconds} s: {condition}"
        time.sleep(0.02)
