"""Runs a module of ours in a process of its own, which the job can end and whose memory it gets back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from service.contract.errors import VerificationFailed

POLL_SECONDS = 0.5


class FreshProcess:
    """The process of `python -m module PARENT`; PARENT is the id of this process.

    It starts at once and does its imports, before there are arguments for it. Its module reads them with
    `read_arguments`. As a context manager it ends the process. `variables` are added to its environment.
    """

    def __init__(self, module: str, variables: Mapping[str, str] | None = None) -> None:
        command, pipe = [sys.executable, "-m", module, str(os.getpid())], subprocess.PIPE
        environment = {**os.environ, **(variables or {})}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def last_line(self, arguments: Sequence[str], while_waiting: Callable[[], None], failure: str) -> str:
        """The last line that the module prints, called once; the arguments fit into a pipe, which holds 64 KiB.

        `while_waiting` is called about twice a second, and may raise to end the process. Raises VerificationFailed,
        whose message begins with `failure`, where the module fails.
        """
        pipe, self._process.stdin = self._process.stdin, None
        assert pipe is not None, "it was called before"
        with suppress(BrokenPipeError), pipe:  # of a process that has died; its status says so
            pipe.write(json.dumps(arguments) + "\n")
        output, errors = wait_for(self._process, while_waiting)
        if self._process.returncode != 0:
            raise VerificationFailed(f"{failure}: {_last_line(errors)}")
        return _last_line(output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.__exit__(kind, error, traceback)


def read_arguments() -> list[str]:
    """The arguments that this process, a fresh one, is given; exits where there will be none."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    arguments: list[str] = json.loads(line)
    return arguments


def wait_for(process: "subprocess.Popen[str]", while_waiting: Callable[[], None]) -> tuple[str, str]:
    """The standard output and errors of the process; kills it where `while_waiting` raises."""
    try:
        while True:
            try:
                return process.communicate(timeout=POLL_SECONDS)
            except subprocess.TimeoutExpired:
                while_waiting()
    except BaseException:
        process.kill()
        raise


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
