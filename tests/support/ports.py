"""Ports for servers of the tests."""

import fcntl
import os
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")  # the ports that the kernel gives to outgoing connections
FIRST = 10_000
RESERVED = Path(tempfile.gettempdir()) / f"taskslim-test-ports-{os.getuid()}"

_locks: dict[int, int] = {}  # port -> descriptor of its locked file; the lock ends with this process


def free_port() -> int:
    """A port that nothing listens on."""
    [port] = free_ports(1)
    return port


def free_ports(count: int, *, second: int = 0) -> list[int]:
    """Different ports that nothing listens on, each with another one `second` above it.

    A port is reserved for this process until its end, so that no other test process is given it between this call and
    the start of the server. It lies below the kernel's range for outgoing connections, so that a server that is
    started again finds its port free. The system draws the numbers: the suite seeds all other generators alike.
    """
    draw, end = SystemRandom(), int(GIVEN.read_text().split()[0]) if GIVEN.exists() else 32_768
    ports: list[int] = []
    while len(ports) < count:
        port = draw.randrange(FIRST, end - second)
        if all(_reserve(each) for each in {port, port + second}) and _nothing_listens(port, port + second):
            ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    """Locks the port's file for this process; False where it is locked, by this process or another."""
    if port in _locks:
        return False
    RESERVED.mkdir(exist_ok=True)
    file = os.open(RESERVED / str(port), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _locks[port] = file
    return True


def _nothing_listens(*ports: int) -> bool:
    with ExitStack() as held:
        try:
            for port in set(ports):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
    return True
