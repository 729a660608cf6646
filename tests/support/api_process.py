"""The API as a process of its own, as a deployment starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from service.settings import Settings
from tests.support import http
from tests.support.ports import free_port
from tests.support.waiting import DEADLINE_SECONDS, wait_until

SHARED = ("redis_url", "state", "lease_seconds", "heartbeat_seconds", "reconcile_seconds")


@contextmanager
def api(settings: Settings, log: Path, *options: str, **variables: str) -> Iterator[str]:
    """The URL of a server that is ready; `options` are added to its command, `variables` to its environment, its log
    goes to `log`."""
    port = free_port()
    mine = {f"SLIM_{name.upper()}": str(getattr(settings, name)) for name in SHARED}
    url = f"http://127.0.0.1:{port}"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "api", "--port", str(port), *options],
            env=os.environ | mine | variables,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(url))
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        return http.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False
