"""A deployment of processes that faults can break: Redis, an S3 server, the API and two workers.

A process that exits is started again, as Docker Compose does. The temporary directory of a worker is a file system of
a fixed size.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.utils import as_text, parse_composite_key

from service.infrastructure.child_process import child_command
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.infrastructure.supervisor import API, WORKER, SupervisedProcess, supervise
from tests.support.ports import free_port
from tests.support.s3_server import credentials, s3_ports, s3_server
from tests.support.waiting import wait_until
from worker.attempts.process import RUNS
from worker.attempts.rq_worker import CHILD

SCRATCH_SIZE = "48m"
# A tmpfs in a separate mount namespace: it can be filled without an effect on other processes, and needs no privilege
# where user namespaces are allowed. `exec` keeps the process id that the supervisor knows.
CONFINED = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    f'mount -t tmpfs -o size={SCRATCH_SIZE} scratch "$TMPDIR" && exec "$@"',
    "worker",
)


class Server:
    """A server that can be killed and started again with the same data and address."""

    def __init__(self, start: Callable[[], AbstractContextManager[str]], programs: tuple[str, ...]) -> None:
        self._start, self._programs, self._stack = start, programs, ExitStack()
        self.url = ""

    def start(self) -> None:
        self.url = self._stack.enter_context(self._start())

    def kill(self) -> None:
        """Kill its processes by SIGKILL."""
        for process in psutil.Process().children():
            if process.name() in self._programs:
                process.kill()
        self._stack.close()

    def stop(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class Running:
    """A running attempt of a job."""

    worker: psutil.Process
    child: psutil.Process
    rq_job: str  # job id and attempt


@dataclass
class Deployment:
    """The URL and the processes of a deployment."""

    directory: Path
    url: str
    redis: Server
    s3: Server
    api: SupervisedProcess
    workers: list[SupervisedProcess]
    environment: dict[str, str] = field(default_factory=dict)

    def running(self) -> list[Running]:
        """The running attempts."""
        found = []
        for part in self.workers:
            try:
                worker = psutil.Process(pid_of(part))
                for child in worker.children():
                    found += [Running(worker, child, rq_job) for rq_job in self._attempts_of(child)]
            except psutil.NoSuchProcess:
                continue
        return found

    def _attempts_of(self, child: psutil.Process) -> list[str]:
        """The attempt that a process runs; none of the process that waits for one."""
        command = child.cmdline()
        if CHILD not in command or child.name() != RUNS:
            return []
        key = WORKER_EXECUTIONS_KEY_TEMPLATE.format(command[command.index(CHILD) + 2])
        executions = connect(self.redis.url).smembers(key)
        return [parse_composite_key(as_text(execution))[0] for execution in executions]

    def fill_scratch(self) -> list[Path]:
        """Fill the scratch directories of the workers to the last byte, and return the files that were written."""
        fillers = [Path(f"/proc/{pid_of(part)}/root{scratch_of(part)}/filler") for part in self.workers]
        return [filler for filler in fillers if fill(filler)]


def pid_of(part: SupervisedProcess) -> int:
    return part.process.pid if part.process else 0


def scratch_of(part: SupervisedProcess) -> str:
    return part.environment["TMPDIR"]


def fill(path: Path) -> bool:
    """Write to the file until the file system is full. False without its directory: the worker has exited."""
    try:
        file = path.open("wb", buffering=0)
    except OSError:
        return False
    with file:
        for size in (2**20, 2**12, 1):
            while _fits(file.fileno(), size):
                pass
    return True


def _fits(file: int, size: int) -> bool:
    try:
        return os.write(file, bytes(size)) == size
    except OSError:
        return False


@contextmanager
def deployed(directory: Path, settings: dict[str, str]) -> Iterator[Deployment]:
    """A running deployment with its files and logs in `directory`; `settings` are added to its environment."""
    ports, port = s3_ports(), free_port()
    data = directory / "s3"
    data.mkdir()
    redis = Server(lambda: embedded_redis(directory / "redis"), ("valkey-server", "redis-server"))
    s3 = Server(lambda: s3_server(data, ports), ("weed",))
    with ExitStack() as stack:
        for server in (redis, s3):
            server.start()
            stack.callback(server.stop)
        names = credentials(s3.url)
        os.environ.update(names)  # this process reads the object store too
        environment = os.environ | names | settings | _settings(directory, redis.url, port)
        workers = [_worker(directory, environment, number) for number in (1, 2)]
        api = SupervisedProcess("api", logged(list(API), directory / "api.log"), environment, stop_seconds=10)
        stack.enter_context(_supervised([api, *workers]))
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(url))
        yield Deployment(directory, url, redis, s3, api, workers, environment)


def _settings(directory: Path, redis_url: str, port: int) -> dict[str, str]:
    return {
        "SLIM_REDIS_URL": redis_url,
        "SLIM_STORAGE_URL": "s3://chaos/artifacts",
        "SLIM_STATE": str(directory / "state"),
        "SLIM_PORT": str(port),
        "SLIM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def _worker(directory: Path, environment: dict[str, str], number: int) -> SupervisedProcess:
    scratch = directory / f"scratch-{number}"
    scratch.mkdir()
    # Entering the namespace clears the parent-death signal, so it is set inside.
    command = logged([*CONFINED, *child_command(WORKER, signal.SIGTERM)], directory / f"worker-{number}.log")
    return SupervisedProcess(f"worker-{number}", command, environment | {"TMPDIR": str(scratch)}, stop_seconds=30)


def logged(command: list[str], path: Path) -> list[str]:
    return ["sh", "-c", f'exec "$@" >>{path} 2>&1', sys.argv[0], *command]


@contextmanager
def _supervised(parts: list[SupervisedProcess]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=(parts, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False
