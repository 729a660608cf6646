"""A `taskslim serve` process on a free port, which the demo and the benchmarks start and stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.contract.errors import QueueUnavailable
from service.infrastructure.child_process import child_command, terminate

START_SECONDS = 90.0
STOP_SECONDS = 45.0  # more than the server waits for its own processes


@contextmanager
def running_server(directory: Path) -> Iterator[str]:
    """The URL of a server with the state directory `directory`, stopped after the block. Raises QueueUnavailable."""
    directory.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), directory / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            child_command(_serve_command(port, directory), signal.SIGTERM),
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the server
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url
        finally:
            terminate(process, STOP_SECONDS)


def _serve_command(port: int, directory: Path) -> list[str]:
    return [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--state", str(directory)]


def _clean_environment() -> dict[str, str]:
    """The environment without SLIM_ variables, so that the server uses no other Redis, storage or keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLIM_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=10).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise QueueUnavailable(f"the server did not start: see {log}")
