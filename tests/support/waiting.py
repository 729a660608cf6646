"""Tests wait for conditions, never for time."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], deadline_seconds: float = 60) -> None:
    """Return once `condition` holds; fail the test when it does not hold in time."""
    end = time.monotonic() + deadline_seconds
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_seconds} s: {condition}"
        time.sleep(0.02)
