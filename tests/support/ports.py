"""Ports for servers of the tests."""

import socket
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")  # the ports that outgoing connections are given
FIRST = 10_000


def free_port() -> int:
    """A port that nothing listens on."""
    [port] = free_ports(1)
    return port


def free_ports(count: int, *, second: int = 0) -> list[int]:
    """Different ports that nothing listens on, each with another one `second` above it.

    No outgoing connection is given them, so that a server that starts again finds its own free. They are drawn by the
    system: tests seed all other generators alike, in every process.
    """
    draw, end = SystemRandom(), int(GIVEN.read_text().split()[0]) if GIVEN.exists() else 32_768
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = draw.randrange(FIRST, end - second)
            try:
                for each in {port, port + second}:
                    held.enter_context(socket.create_server(("127.0.0.1", each)))
            except OSError:  # taken
                continue
            ports.append(port)
    return ports
