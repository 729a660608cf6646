"""Child processes that end when their parent dies, however it dies.

    python -m service.infrastructure.child_process SIGTERM <pid of the parent> valkey-server --port 0

On Linux the kernel sends the signal (`PR_SET_PDEATHSIG`). On other systems a child outlives a parent that is killed;
the leases of jobs and the lock on the state directory keep it from doing harm.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
MODULE = "service.infrastructure.child_process"


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Receive the signal `by` when `parent` dies; exit at once where it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(by), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """Give this process the name that `ps` and `top` show, of 15 bytes at most. Other systems than Linux show none."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def child_command(command: Sequence[str], by: signal.Signals) -> list[str]:
    """The command line that runs `command` as a child that receives the signal `by` when this process dies."""
    return [sys.executable, "-m", MODULE, by.name, str(os.getpid()), *command]


def terminate(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Terminate a process; kill it where it still runs after `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """Run the command of the command line, tied to its parent."""
    by, parent, *command = sys.argv[1:]
    die_with_parent(int(parent), signal.Signals[by])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
