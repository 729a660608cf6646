"""The supervisor of `taskslim serve`: runs an embedded Redis, the API and a worker, and restarts them when they end.

Each runs in a process and session of its own, so that Ctrl-C reaches only the supervisor. It stops them in order: the
worker, which hands its job back, then the API, then Redis.
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

from service.infrastructure.child_process import child_command, terminate
from service.infrastructure.embedded_redis import redis_url
from service.settings import Settings

API = (sys.executable, "-m", "service.cli", "api")
WORKER = (sys.executable, "-m", "worker")
POLL_SECONDS = 0.2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
STABLE_SECONDS = 60.0  # a process that ran for so long is restarted after the first pause again

log = structlog.get_logger()


@dataclass
class SupervisedProcess:
    """A process that is restarted when it ends, after a pause that doubles each time it ends early."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause_seconds: float = field(default=FIRST_PAUSE_SECONDS)

    def start(self) -> None:
        """Start the process."""
        self.started_at = time.monotonic()
        # A session of its own keeps Ctrl-C from the process, which ends with this one.
        self.process = subprocess.Popen(
            child_command(self.command, signal.SIGTERM), env=self.environment, start_new_session=True
        )
        log.info("process started", name=self.name, pid=self.process.pid)

    def restart_if_ended(self) -> None:
        """Restart the process if it has ended and its pause is over."""
        if self.process is None or self.process.poll() is None:
            return
        lived = time.monotonic() - self.started_at
        if lived > STABLE_SECONDS:
            self.pause_seconds = FIRST_PAUSE_SECONDS
        if lived >= self.pause_seconds:
            log.warning("process ended", name=self.name, code=self.process.returncode)
            self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
            self.start()

    def stop(self) -> None:
        """Stop the process; kill it where it still runs after `stop_seconds`."""
        if self.process is not None:
            terminate(self.process, self.stop_seconds)


def serve(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Raises QueueUnavailable where no Redis can be started."""
    with stop_signals() as stop, redis_url(settings) as url:
        environment = os.environ | process_environment(settings, url)
        supervise(
            [
                SupervisedProcess("api", API, environment, stop_seconds=10),
                SupervisedProcess("worker", WORKER, environment, stop_seconds=settings.cancel_grace_seconds + 10),
            ],
            stop,
        )


def supervise(processes: Sequence[SupervisedProcess], stop: threading.Event) -> None:
    """Keep the processes running until `stop` is set, then stop them in reverse order."""
    try:
        for process in processes:
            process.start()
        while not stop.wait(POLL_SECONDS):
            for process in processes:
                process.restart_if_ended()
    finally:
        for process in reversed(processes):
            process.stop()


def process_environment(settings: Settings, url: str) -> dict[str, str]:
    """The settings as environment variables of the processes."""
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

    def handle(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
