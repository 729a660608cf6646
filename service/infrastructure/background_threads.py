"""Loops that an API process runs beside its requests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Loop = Callable[[threading.Event], None]
STOP_SECONDS = 5  # a loop in the midst of a call is not waited for longer; what it does can be done again


@contextmanager
def running(*loops: Loop) -> Iterator[None]:
    """Run each loop in a thread while the block runs; a loop returns soon after its event is set."""
    stop = threading.Event()
    threads = [threading.Thread(target=loop, args=(stop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(STOP_SECONDS)
