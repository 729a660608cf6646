"""Child processes of a process under test, read without a race: a child may end at any moment."""

from collections.abc import Callable

import psutil

from tests.support.waiting import wait_until

Matches = Callable[[list[str]], bool]


def _any(command: list[str]) -> bool:
    return True


def find_child(parent: psutil.Process, matches: Matches = _any) -> psutil.Process | None:
    """The first child that runs and whose command line `matches`; None where there is none at the moment."""
    return next((child for child in parent.children() if (found := _command(child)) and matches(found)), None)


def wait_for_child(parent: psutil.Process, matches: Matches = _any, *, other_than: int | None = None) -> psutil.Process:
    """As `find_child`, once there is one whose process id is not `other_than`."""
    found: list[psutil.Process] = []

    def look() -> bool:
        child = find_child(parent, matches)
        if child is not None and child.pid != other_than:
            found.append(child)
        return bool(found)

    wait_until(look)
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
