"""Ties a process to the one that started it: when the parent dies, however it dies, so does the child. And ends one.

    python -m service.infrastructure.child_process SIGTERM <pid of the parent> valkey-server --port 0

On Linux the kernel does it (`PR_SET_PDEATHSIG`). Elsewhere nothing does: what the parent leaves behind is found by the
leases of the jobs and by the lock on the state directory.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
MODULE = "service.infrastructure.child_process"


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Ask for the signal `by` at the death of `parent`; exit now if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(by), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def child_command(command: Sequence[str], by: signal.Signals) -> list[str]:
    """The command line that runs `command` tied to the calling process."""
    return [sys.executable, "-m", MODULE, by.name, str(os.getpid()), *command]


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end; kill it where it has not after so long."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    by, parent, *command = sys.argv[1:]
    die_with_parent(int(parent), signal.Signals[by])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
