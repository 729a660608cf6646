"""The stand-by process: it has done its imports and waits for an attempt, which then starts at once.

A process runs one attempt and ends. The next stand-by process starts with the first heartbeat after that, beside the
attempt. A process has nothing of an attempt before its own: it takes its environment from the worker.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pydantic import BaseModel

# By default OpenMP's threads spin while they wait for each other. Where other processes use the same cores, or a
# container has a CPU quota, spinning threads take time from the working one: one pass took 15 times longer.
OPENMP_VARIABLES = {"OMP_WAIT_POLICY": "passive"}


class HandedOver(BaseModel):
    """What the process reads from its standard input, as one line of JSON."""

    rq_job: str
    execution: str  # id of RQ's execution


class StandbyProcess:
    """Starts `python -m` `module` with `arguments` as the process that waits, and hands an attempt over to it.

    The kernel ends a process with the thread that started it (`die_with_parent`), so call it from the main thread.
    """

    def __init__(self, module: str, arguments: Sequence[str], variables: Mapping[str, str] = OPENMP_VARIABLES) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._variables = variables
        self._pid = 0
        self._pipe = -1  # to the standard input of the process

    def keep(self) -> None:
        """Start a process unless one waits; a process that has died is replaced."""
        if self._pid and os.waitpid(self._pid, os.WNOHANG) != (0, 0):
            self._forget()
        if not self._pid:
            self._start()

    def hand_over(self, attempt: HandedOver) -> int:
        """Make the process run an attempt. Returns its id; the caller waits for it."""
        self.keep()
        try:
            self._write(attempt)
        except BrokenPipeError:  # it died this moment
            self.end()
            self._start()
            self._write(attempt)
        pid = self._pid
        self._forget()
        return pid

    def end(self) -> None:
        """End the process that waits, if there is one. It holds nothing, so that it is killed."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._forget()

    def _start(self) -> None:
        """It blocks SIGTERM until it has a handler (`worker.attempts.signals`)."""
        reading, self._pipe = os.pipe()  # neither end is inherited, but as the standard input
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                self._command,
                {**self._variables, **os.environ},
                file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
                setpgroup=0,
                setsigmask=[signal.SIGTERM],
            )
        finally:
            os.close(reading)

    def _write(self, attempt: HandedOver) -> None:
        os.write(self._pipe, attempt.model_dump_json().encode() + b"\n")

    def _forget(self) -> None:
        os.close(self._pipe)
        self._pid, self._pipe = 0, -1
