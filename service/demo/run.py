"""The demo, start to end: a server of its own, one job over HTTP, the figures, and nothing left running."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from service.demo.display import describe, job_bar, result_table, snippet
from service.demo.request import RATIO, demo_request
from service.errors import Conflict, QueueUnavailable, TaskslimError
from service.records import DEFAULT_TENANT
from service.schemas import Job, JobRequest, JobStatus
from service.settings import Settings
from service.storage import attempt_prefix, path_of
from service.tether import tethered

START_SECONDS = 90.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.5


class DemoFailed(TaskslimError):
    """The job did not succeed, or the server did not start."""


def run_demo(state: Path | None = None) -> None:
    """Slim the demo's model and print what came of it. Nothing that was started here outlives the call.

    `state` keeps what the server writes; by default a directory in the user's cache, emptied first but for the
    converted model. Raises InvalidModel, Conflict or DemoFailed.
    """
    console = Console()
    request = demo_request()
    with _stopped_by_sigterm(), _own_directory(state or default_directory()) as directory:
        if state is None:
            _forget_last_run(directory)
        console.print(f"Starting Redis, the API and a worker in {directory}", soft_wrap=True)
        with _server(directory) as client:
            job = _follow(client, _submit(client, request), console)
        _show(job, directory, console)


def default_directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "taskslim" / "demo"


@contextmanager
def _own_directory(directory: Path) -> Iterator[Path]:
    """The directory, made where it is missing, and held against a second demo."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another demo runs in {directory}; choose another directory with --state") from error
        yield directory.resolve()


def _forget_last_run(directory: Path) -> None:
    for name in ("redis", "artifacts"):
        shutil.rmtree(directory / name, ignore_errors=True)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what it started is stopped."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- the server ----------------------------------------------------------------------------------------------------


@contextmanager
def _server(directory: Path) -> Iterator[httpx.Client]:
    """A client of `taskslim serve` over `directory`; the server is gone after the block."""
    port, log = _free_port(), directory / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            tethered(_serve_command(port, directory), signal.SIGTERM),
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop the server in order
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                _wait_until_ready(client, process, log)
                yield client
        finally:
            _stop(process)


def _serve_command(port: int, directory: Path) -> list[str]:
    return [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--state", str(directory)]


def _clean_environment() -> dict[str, str]:
    """The demo is the same everywhere: nobody's Redis, storage or keys, whatever SLIM_ variables say."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLIM_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise QueueUnavailable(f"the server did not start; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- the job -------------------------------------------------------------------------------------------------------


def _submit(client: httpx.Client, request: JobRequest) -> Job:
    answer = client.post("/jobs", json=request.model_dump(mode="json", exclude_defaults=True))
    if answer.is_error:
        raise DemoFailed(f"POST /jobs answered {answer.status_code}: {answer.text}")
    return Job.model_validate_json(answer.content)


def _follow(client: httpx.Client, job: Job, console: Console) -> Job:
    """Show the job's progress until it ends. Raises DemoFailed unless it succeeds."""
    console.print(f"POST /jobs  ->  {job.links.self}, to remove {RATIO:.0%} of the feed-forward neurons")
    with job_bar(console) as bar:
        line = bar.add_task(describe(job), total=1.0)
        while not job.status.is_terminal:
            time.sleep(POLL_SECONDS)
            job = Job.model_validate_json(client.get(f"/jobs/{job.id}").raise_for_status().content)
            bar.update(line, description=describe(job), completed=job.progress.fraction)
    if job.status is not JobStatus.succeeded:
        raise DemoFailed(f"the job {job.status}: {job.error.message if job.error else 'no reason was given'}")
    return job


def _show(job: Job, directory: Path, console: Console) -> None:
    if job.result is None:
        raise DemoFailed("the job succeeded without a result")
    artifacts = path_of(Settings(storage_url="", state=directory).artifacts_url)
    model = artifacts / attempt_prefix(DEFAULT_TENANT, job.id, job.attempt) / "model"
    console.print(result_table(job.result))
    console.print(f"\nThe slim checkpoint lies in\n{model}\n\nLoad it:\n", soft_wrap=True)
    console.print(snippet(model), markup=False, highlight=False, soft_wrap=True)
