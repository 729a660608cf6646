"""The supervisor of `taskslim serve`: it restarts processes that end, and stops them on a signal."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.infrastructure.supervisor import SupervisedProcess, supervise
from tests.support import http
from tests.support.jobs import checkpoint, request
from tests.support.ports import free_port
from tests.support.processes import wait_for_child
from tests.support.waiting import DEADLINE_SECONDS, wait_until

MORTAL = """
import sys, pathlib
with pathlib.Path(sys.argv[1]).open("a") as file:
    file.write(".")
"""


@contextmanager
def server(state: Path, port: int) -> Iterator[psutil.Process]:
    """`taskslim serve`, ready for requests; ends with Ctrl-C."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--state", str(state)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLIM_")}
    with (state.parent / "server.log").open("ab") as log:
        popen = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    process = psutil.Process(popen.pid)
    try:
        wait_until(lambda: popen.poll() is not None or ready(port))
        yield process
        parts = process.children(recursive=True)
        popen.send_signal(signal.SIGINT)
        assert popen.wait(DEADLINE_SECONDS) == 0
        assert psutil.wait_procs(parts, DEADLINE_SECONDS)[1] == []
    finally:
        popen.kill()
        popen.wait()


def ready(port: int) -> bool:
    try:
        return http.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def is_worker(command: list[str]) -> bool:
    """Whether the process runs the command line of the worker."""
    return command[1:] == ["-m", "worker"]


@pytest.mark.slow
def test_dead_worker_is_restarted_and_jobs_survive(tmp_path: Path) -> None:
    port = free_port()
    jobs = f"http://127.0.0.1:{port}/jobs"
    with server(tmp_path / "state", port) as process:
        first = wait_for_child(process, is_worker)
        first.kill()
        wait_for_child(process, is_worker, other_than=first.pid)
        asked = request(checkpoint(tmp_path / "model"), 1000)
        answer = http.post(jobs, json=asked.model_dump(mode="json", exclude_defaults=True))
        assert answer.status_code == 202, answer.text
    with server(tmp_path / "state", port):
        assert [job["id"] for job in http.get(jobs).json()["data"]] == [answer.json()["id"]]


def test_process_that_keeps_ending_is_restarted_after_longer_pauses(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    part = SupervisedProcess(
        "mortal", [sys.executable, "-c", MORTAL, str(starts)], os.environ, stop_seconds=5, pause_seconds=0.05
    )
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=([part], stop))
    thread.start()
    try:
        wait_until(lambda: starts.exists() and len(starts.read_text()) >= 3)
        assert part.pause_seconds >= 0.2
    finally:
        stop.set()
        thread.join()


def test_process_that_does_not_stop_in_time_is_killed() -> None:
    stubborn = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    part = SupervisedProcess("stubborn", [sys.executable, "-c", stubborn], os.environ, stop_seconds=0.2)
    part.start()
    assert part.process is not None
    wait_until(lambda: part.process is not None and ignores_sigterm(part.process.pid))
    part.stop()
    assert part.process.returncode == -signal.SIGKILL


def ignores_sigterm(pid: int) -> bool:
    """As the kernel tells it."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(status["SigIgn"], 16) >> (signal.SIGTERM - 1) & 1)
