"""Runs a module of ours in a process of its own, which the job can end and whose memory it gets back."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from service.contract.errors import VerificationFailed

POLL_SECONDS = 0.5


def last_line_of(
    module: str,
    arguments: Sequence[str],
    while_waiting: Callable[[], None],
    failure: str,
    variables: Mapping[str, str] | None = None,
) -> str:
    """The last line that `python -m module PARENT arguments` prints; PARENT is the id of this process.

    `variables` are added to its environment. `while_waiting` is called about twice a second, and may raise to end the
    process. Raises VerificationFailed, whose message begins with `failure`, where the module fails.
    """
    command = [sys.executable, "-m", module, str(os.getpid()), *arguments]
    environment = {**os.environ, **(variables or {})}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        output, errors = wait_for(process, while_waiting)
    if process.returncode != 0:
        raise VerificationFailed(f"{failure}: {_last_line(errors)}")
    return _last_line(output)


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
