"""Child processes of a process under test, read without a race: a child may end at any moment."""

from collections.abc import Callable

import psutil

from tests.support.waiting import wait_until
from worker.attempts.process import RUNS, WAITS

Matches = Callable[[list[str]], bool]


def _any(command: list[str]) -> bool:
    return True


def find_child(parent: psutil.Process, matches: Matches = _any) -> psutil.Process | None:
    """The first child that runs and whose command line `matches`; None where there is none at the moment."""
    return next((child for child in parent.children() if (found := _command(child)) and matches(found)), None)


def wait_for_child(parent: psutil.Process, matches: Matches = _any, *, other_than: int | None = None) -> psutil.Process:
    """As `find_child`, once there is one whose process id is not `other_than`."""

    def look() -> psutil.Process | None:
        child = find_child(parent, matches)
        return child if child is not None and child.pid != other_than else None

    return _once(look)


def find_attempt(worker: psutil.Process) -> psutil.Process | None:
    """The process of the attempt that a worker runs; None where it runs none at the moment."""
    return _named(worker, RUNS)


def wait_for_attempt(worker: psutil.Process) -> psutil.Process:
    """As `find_attempt`, once there is one."""
    return _once(lambda: find_attempt(worker))


def wait_for_standby(worker: psutil.Process) -> psutil.Process:
    """The process that waits for an attempt of a worker, once there is one and its imports are done."""
    return _once(lambda: _named(worker, WAITS))


def _named(parent: psutil.Process, name: str) -> psutil.Process | None:
    return next((child for child in parent.children() if _name(child) == name and not has_ended(child)), None)


def _once(look: Callable[[], psutil.Process | None]) -> psutil.Process:
    found: list[psutil.Process] = []

    def is_found() -> bool:
        found.extend(filter(None, [look()]))
        return bool(found)

    wait_until(is_found)
    return found[0]


def has_ended(process: psutil.Process) -> bool:
    """Whether the process is gone, or a zombie that its parent has not collected."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _command(child: psutil.Process) -> list[str]:
    """The command line; empty for a process that has ended."""
    try:
        return child.cmdline()
    except psutil.NoSuchProcess:
        return []


def _name(child: psutil.Process) -> str:
    """The name that the process has given itself; empty for a process that has ended."""
    try:
        return child.name()
    except psutil.NoSuchProcess:
        return ""
