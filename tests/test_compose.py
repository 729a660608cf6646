"""The services of the compose file as processes on loopback, with their commands and environments, and the walkthrough
against them. No container engine is needed."""

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
    """Loopback ports of the services."""

    valkey: int
    s3: int
    api: int

    def on_loopback(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The variables with loopback addresses in place of service names."""
        addresses = {"valkey:6379": f"127.0.0.1:{self.valkey}", "seaweedfs:8333": f"127.0.0.1:{self.s3}"}
        found = dict(variables)
        for name, address in addresses.items():
            found = {variable: text.replace(name, address) for variable, text in found.items()}
        return found


def command_of(service: str) -> list[str]:
    """The command of the image of the API or the worker."""
    program, *arguments = json.loads(last(TARGETS[service], "CMD"))
    return [str(Path(sys.executable).with_name(program)), *arguments]


def environment_of(service: str, network: Network, directory: Path) -> dict[str, str]:
    """The environment from the image and the compose file, with a directory and ports of this machine."""
    configured = variables(TARGETS[service]) | environment(service)
    local = {"HOME": str(directory), "SLIM_STATE": str(directory), "SLIM_PORT": str(network.api)}
    local |= {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return network.on_loopback(configured) | local


def start_stores(stack: ExitStack, network: Network, other_ports: list[int], directory: Path) -> None:
    """Start Valkey and SeaweedFS in subdirectories of `directory`; `other_ports` are for SeaweedFS' inner servers."""
    _, *options = COMPOSE["valkey"]["command"]
    private = ["--port", str(network.valkey), "--bind", "127.0.0.1", "--dir", str(directory / "valkey")]
    stack.enter_context(running([str(find_server()), *options, *private], environment("valkey"), directory / "valkey"))
    ports = dict(zip(("s3", "master", "volume", "filer"), (network.s3, *other_ports), strict=True))
    program, *options = COMPOSE["seaweedfs"]["entrypoint"]
    private = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory / 'seaweedfs'}", "-volume.max=20"]
    private += [f"-{name}.port={port}" for name, port in ports.items()]
    command = [str(Path(sys.executable).with_name(program)), *options, *COMPOSE["seaweedfs"]["command"], *private]
    stack.enter_context(running(command, environment("seaweedfs"), directory / "seaweedfs"))
    wait_until(lambda: is_healthy(f"http://127.0.0.1:{network.s3}/healthz"))  # the health check of the compose file


def is_healthy(url: str) -> bool:
    try:
        return http.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """All services of the file, with two workers, while the test runs."""
    s3, *other_ports = s3_ports()
    network = Network(free_port(), s3, free_port())
    names = ["valkey", "seaweedfs", "api", *(f"worker-{number}" for number in range(WORKERS))]
    for name in names:
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        start_stores(stack, network, other_ports, tmp_path)
        for name in names[2:]:
            service = name.partition("-")[0]
            directory = tmp_path / name
            stack.enter_context(running(command_of(service), environment_of(service, network, directory), directory))
        wait_until(lambda: is_healthy(f"http://127.0.0.1:{network.api}/readyz"))
        with Redis(port=network.valkey) as redis:
            wait_until(lambda: len(live_workers(redis)) == WORKERS)
        yield network


@pytest.mark.slow
def test_the_walkthrough_runs_against_the_services_of_the_compose_file(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in network.on_loopback(environment("api")).items():
        monkeypatch.setenv(name, value)
    store = Storage("s3://walk/inputs", retry_seconds=30)
    rows = [ROOT / "service/cli/demo" / name for name in ("sentiment-calibration.jsonl", "sentiment-evaluation.jsonl")]
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
