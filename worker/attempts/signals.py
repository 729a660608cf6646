"""Handles SIGTERM, which asks a worker to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM during the block.

    A signal that came earlier is delivered now: the process was started with SIGTERM blocked.
    """

    def handle(_: int, __: FrameType | None) -> None:
        act()

    previous = signal.signal(signal.SIGTERM, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
