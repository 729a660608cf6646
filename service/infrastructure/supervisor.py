"""`taskslim serve`: an embedded Redis, the API and one worker under one roof; what dies is started again.

The parts run in processes and sessions of their own, so that Ctrl-C reaches only this one, which then stops them in
order: the worker first, which hands its job back, then the API, then Redis.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import structlog

from service.infrastructure.child_process import child_command, end
from service.infrastructure.embedded_redis import redis_url
from service.settings import Settings

API = (sys.executable, "-m", "service.cli", "api")
WORKER = (sys.executable, "-m", "worker")
POLL_SECONDS = 0.2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0  # a part that ran for so long is started again at once

log = structlog.get_logger()


@dataclass
class Part:
    """A process that is started again when it ends, after a pause that doubles while it keeps ending early."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_seconds: float = field(default=FIRST_PAUSE_SECONDS)

    def start(self) -> None:
        self.started_at = time.monotonic()
        # Only the process itself is signalled and dies with us; a session of its own keeps Ctrl-C away from it.
        self.process = subprocess.Popen(
            child_command(self.command, signal.SIGTERM), env=self.environment, start_new_session=True
        )
        log.info("started", part=self.name, pid=self.process.pid)

    def revive(self) -> None:
        """Starts the process again if it has ended and its pause is over."""
        if self.process is None or self.process.poll() is None:
            return
        lived = time.monotonic() - self.started_at
        if lived > STEADY_SECONDS:
            self.pause_seconds = FIRST_PAUSE_SECONDS
        if lived >= self.pause_seconds:
            log.warning("ended", part=self.name, code=self.process.returncode)
            self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
            self.start()

    def stop(self) -> None:
        if self.process is not None:
            end(self.process, self.stop_seconds)


def serve(settings: Settings) -> None:
    """Runs until SIGINT or SIGTERM. Raises QueueUnavailable where there is no Redis to be had."""
    with stop_signals() as stop, redis_url(settings) as url:
        environment = os.environ | part_environment(settings, url)
        supervise(
            [
                Part("api", API, environment, stop_seconds=10),
                Part("worker", WORKER, environment, stop_seconds=settings.cancel_grace_seconds + 10),
            ],
            stop,
        )


def supervise(parts: Sequence[Part], stop: threading.Event) -> None:
    """Keeps the parts alive until `stop` is set, then stops them, the last first."""
    try:
        for part in parts:
            part.start()
        while not stop.wait(POLL_SECONDS):
            for part in parts:
                part.revive()
    finally:
        for part in reversed(parts):
            part.stop()


def part_environment(settings: Settings, url: str) -> dict[str, str]:
    """The settings in force as the variables that each part reads them from."""
    return {
        "SLIM_REDIS_URL": url,
        "SLIM_STORAGE_URL": settings.artifacts_url,
        "SLIM_STATE": str(settings.state),
        "SLIM_HOST": settings.host,
        "SLIM_PORT": str(settings.port),
    }


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set while the block runs."""
    stop = threading.Event()

    def take(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
