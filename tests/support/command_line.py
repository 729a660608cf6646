"""The commands and runs of `taskslim`, and a thread that takes the part of the worker for the job of a run."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from typer.main import get_command

from service.cli.__main__ import app
from service.contract.ids import DEFAULT_TENANT
from service.jobs.record import JobRecord
from service.jobs.store import JobStore
from tests.support.waiting import wait_until


class Run(NamedTuple):
    """What a run of the command has ended with."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of standard error, which is the message of a command that was refused."""
        return self.err.splitlines()[-1]


Taskslim = Callable[..., Run]


def commands(command: Any = None, name: str = "taskslim") -> Iterator[tuple[str, Any]]:
    """(name, command) of every command that does something."""
    command = command or get_command(app)
    inner: dict[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield name, command
    for part in inner:
        yield from commands(inner[part], f"{name} {part}")


def when_submitted(job_store: JobStore, act: Callable[[JobRecord], None]) -> threading.Thread:
    """Takes the part of the worker for the one job that the test submits."""

    def wait_and_act() -> None:
        wait_until(lambda: job_store.page(DEFAULT_TENANT).records)
        act(job_store.page(DEFAULT_TENANT).records[0])

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread
