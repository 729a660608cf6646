"""The compose file brought up without a container engine: each service's command with the environment that the file
gives it, as plain processes on loopback, and the README's walk against them."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis import Redis

from service.infrastructure.embedded_redis import find_server
from service.infrastructure.worker_registry import live_workers
from service.storage.object_store import Storage
from tests.support import http
from tests.support.images import COMPOSE, ROOT, SECRETS, TARGETS, environment, last, running, variables
from tests.support.ports import free_port
from tests.support.s3_server import s3_ports
from tests.support.waiting import wait_until
from tests.support.walkthrough import run_walkthrough, tiny_llama

WORKERS = 2


@dataclass(frozen=True)
class Network:
    """Where the names of the file are on this machine."""

    valkey: int
    s3: int
    api: int

    def here(self, texts: Mapping[str, str]) -> dict[str, str]:
        """The same with loopback in place of the services' names."""
        places = {"valkey:6379": f"127.0.0.1:{self.valkey}", "seaweedfs:8333": f"127.0.0.1:{self.s3}"}
        found = dict(texts)
        for name, place in places.items():
            found = {key: text.replace(name, place) for key, text in found.items()}
        return found


def our_command(service: str) -> list[str]:
    """What the image of the service starts."""
    program, *arguments = json.loads(last(TARGETS[service], "CMD"))
    return [str(Path(sys.executable).with_name(program)), *arguments]


def our_environment(service: str, network: Network, directory: Path) -> dict[str, str]:
    """What image and file give the service, with a directory and a port of this machine, and nothing else of it."""
    given = variables(TARGETS[service]) | environment(service)
    local = {"HOME": str(directory), "SLIM_STATE": str(directory), "SLIM_PORT": str(network.api)}
    local |= {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return network.here(given) | local


def start_stores(stack: ExitStack, network: Network, others: list[int], directory: Path) -> None:
    _, *options = COMPOSE["valkey"]["command"]
    private = ["--port", str(network.valkey), "--bind", "127.0.0.1", "--dir", str(directory / "valkey")]
    stack.enter_context(running([str(find_server()), *options, *private], environment("valkey"), directory / "valkey"))
    ports = dict(zip(("s3", "master", "volume", "filer"), (network.s3, *others), strict=True))
    program, *options = COMPOSE["seaweedfs"]["entrypoint"]
    private = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory / 'seaweedfs'}", "-volume.max=20"]
    private += [f"-{name}.port={port}" for name, port in ports.items()]
    command = [str(Path(sys.executable).with_name(program)), *options, *COMPOSE["seaweedfs"]["command"], *private]
    stack.enter_context(running(command, environment("seaweedfs"), directory / "seaweedfs"))
    wait_until(lambda: is_healthy(f"http://127.0.0.1:{network.s3}/healthz"))  # as the file's own check asks


def is_healthy(url: str) -> bool:
    try:
        return http.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """The whole file, up."""
    s3, *others = s3_ports()
    network = Network(free_port(), s3, free_port())
    names = ["valkey", "seaweedfs", "api", *(f"worker-{number}" for number in range(WORKERS))]
    for name in names:
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        start_stores(stack, network, others, tmp_path)
        for name in names[2:]:
            service = name.partition("-")[0]
            directory = tmp_path / name
            stack.enter_context(running(our_command(service), our_environment(service, network, directory), directory))
        wait_until(lambda: is_healthy(f"http://127.0.0.1:{network.api}/readyz"))
        with Redis(port=network.valkey) as redis:
            wait_until(lambda: len(live_workers(redis)) == WORKERS)
        yield network


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_walk_runs_against_everything_that_compose_starts(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in network.here(environment("api")).items():
        monkeypatch.setenv(name, value)
    store = Storage("s3://walk/inputs", retry_seconds=30)
    rows = [ROOT / "service/cli/demo" / name for name in ("calibration.jsonl", "evaluation.jsonl")]
    for path in [*tiny_llama(tmp_path / "model").iterdir(), *rows]:
        store.put_file(path, f"{path.parent.name}/{path.name}")
    key = SECRETS["SLIM_API_KEY"]
    url = f"http://127.0.0.1:{network.api}"
    assert http.get(f"{url}/jobs").status_code == 401
    (tmp_path / ".curlrc").write_text(f'header = "Authorization: Bearer {key}"\n')

    job = run_walkthrough(
        tmp_path,
        URL=url,
        MODEL="s3://walk/inputs/model",
        ROWS="s3://walk/inputs/demo",
        CURL_HOME=str(tmp_path),
        SLIM_API_KEY=key,
    )

    assert http.get(job, headers={"Authorization": f"Bearer {key}"}).status_code == 404
