"""Static checks of the Dockerfile and the compose file, and runs of their commands without a container engine."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
from redis import Redis

from service.contract.errors import StorageUnavailable
from service.infrastructure.embedded_redis import find_server
from service.infrastructure.worker_registry import register_worker
from service.settings import Settings
from service.storage.object_store import Storage
from service.tenants.api_keys import KEY
from tests.support.images import (
    COMPOSE,
    ROOT,
    STAGES,
    STORES,
    TARGETS,
    environment,
    instructions_of,
    last,
    read_compose,
    running,
    variables,
)
from tests.support.s3_server import s3_ports
from tests.support.waiting import wait_until

# --- Dockerfile ----------------------------------------------------------------------------------------------------


def test_images_start_from_a_pinned_debian() -> None:
    bases = {stage.base for stage in STAGES.values()} - STAGES.keys()
    assert bases == {"python:3.11-slim-bookworm"}


def test_the_service_image_installs_no_torch_and_its_build_checks_that() -> None:
    runs = [instruction.text for instruction in instructions_of("build-service") if instruction.name == "RUN"]
    installs = [text for text in runs if "pip install" in text]
    assert not any("torch" in text or "[worker]" in text for text in installs)
    assert any("find_spec" in text and "torch" in text for text in runs)


def test_the_worker_image_installs_the_torch_version_of_the_constraints() -> None:
    pinned = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert any(pinned[0] in instruction.text for instruction in STAGES["build-worker"].instructions)


@pytest.mark.parametrize("stage", TARGETS.values())
def test_an_image_runs_as_an_unprivileged_user_and_has_a_health_check(stage: str) -> None:
    user = last(stage, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "runAsNonRoot of Kubernetes needs a numeric user"
    assert json.loads(last(stage, "HEALTHCHECK").partition("CMD ")[2])


@pytest.mark.parametrize("stage", TARGETS.values())
def test_an_image_sets_only_existing_settings(stage: str) -> None:
    assert slim_fields(variables(stage)) <= Settings.model_fields.keys()


@pytest.mark.parametrize("stage", TARGETS.values())
def test_the_command_of_an_image_exists(stage: str) -> None:
    program, *arguments = json.loads(last(stage, "CMD"))
    run = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_dockerignore_keeps_the_files_that_the_images_copy() -> None:
    ignored, *kept = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "service", "worker"):
        assert (ROOT / name).exists()
        assert any(fnmatch(name, pattern.removeprefix("!")) for pattern in kept if pattern.startswith("!"))


def test_the_worker_image_is_healthy_only_while_its_worker_is_registered(redis: Redis, redis_server: str) -> None:
    _, *arguments = json.loads(last("worker", "HEALTHCHECK").partition("CMD ")[2])
    assert check_health(arguments, redis_server) == 1
    register_worker(redis, f"{socket.gethostname()}-01")
    assert check_health(arguments, redis_server) == 0


def check_health(arguments: list[str], redis_server: str) -> int:
    return subprocess.run([sys.executable, *arguments], env={"SLIM_REDIS_URL": redis_server}, check=False).returncode


# --- compose -------------------------------------------------------------------------------------------------------


def slim_fields(names: Mapping[str, str]) -> set[str]:
    return {name.removeprefix("SLIM_").lower() for name in names if name.startswith("SLIM_")}


@pytest.mark.parametrize("service", COMPOSE)
def test_a_container_is_hardened_and_restarts(service: str) -> None:
    definition = COMPOSE[service]
    assert definition["restart"] == "unless-stopped"
    assert definition["read_only"] is True
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition.get("privileged") is None


@pytest.mark.parametrize("service", STORES)
def test_a_store_has_a_health_check_a_volume_and_an_unprivileged_user(service: str) -> None:
    definition = COMPOSE[service]
    assert definition["healthcheck"]["test"][0] == "CMD"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", definition["user"])
    assert re.search(r":[\d.]+", definition["image"]), "the tag must name a version"
    assert any(volume.endswith(":/data") for volume in definition["volumes"])
    assert definition["networks"] == ["inside"], "a store must not be reachable from outside"


@pytest.mark.parametrize(("service", "target"), TARGETS.items())
def test_api_and_worker_are_built_from_their_stages_and_wait_for_the_stores(service: str, target: str) -> None:
    definition = COMPOSE[service]
    assert definition["build"]["target"] == target
    assert {name: needed["condition"] for name, needed in definition["depends_on"].items()} == dict.fromkeys(
        STORES, "service_healthy"
    )


@pytest.mark.parametrize("service", TARGETS)
def test_compose_sets_only_existing_settings_to_valid_values(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(service)
    assert slim_fields(given) <= Settings.model_fields.keys()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.redis_url.startswith("redis://valkey:")
    assert settings.artifacts_url.startswith("s3://")


def test_the_worker_runs_on_cpu_and_the_override_gives_it_one_gpu() -> None:
    override = read_compose("docker-compose.gpu.yml")
    assert environment("worker")["SLIM_DEVICE"] == "cpu"
    assert override.keys() == {"worker"}
    assert override["worker"]["environment"]["SLIM_DEVICE"] == "cuda"
    (device,) = override["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["0"]


def test_valkey_accepts_the_options_of_the_compose_file(tmp_path: Path) -> None:
    program, *arguments = COMPOSE["valkey"]["command"]
    assert program == "valkey-server"
    address = tmp_path / "s"
    private = ["--port", "0", "--unixsocket", str(address), "--dir", str(tmp_path)]
    with (
        running([str(find_server()), *arguments, *private], {}, tmp_path),
        Redis(unix_socket_path=str(address)) as redis,
    ):
        wait_until(address.exists)
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_api_key_in_the_comment_of_compose_is_valid() -> None:
    described = re.search(r"SLIM_API_KEY=(\w+)\$\(openssl rand -hex 32\)", (ROOT / "docker-compose.yml").read_text())
    assert described is not None
    assert KEY.fullmatch(described[1] + "0" * 64)


def test_the_s3_server_accepts_the_credentials_of_the_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SeaweedFS runs with the arguments of the compose file, on ports and in a directory of the test."""
    definition = COMPOSE["seaweedfs"]
    ports = dict(zip(("master", "volume", "filer", "s3"), s3_ports(), strict=True))
    private = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={tmp_path}", "-volume.max=4"]
    private += [f"-{name}.port={port}" for name, port in ports.items()]
    program, *options = definition["entrypoint"]
    command = [str(Path(sys.executable).with_name(program)), *options, *definition["command"], *private]
    for name, value in environment("api").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3']}")
    with running(command, environment("seaweedfs"), tmp_path):
        storage = Storage(Settings().artifacts_url, retry_seconds=1)
        wait_until(lambda: can_write(storage))
        assert storage.get_bytes("default/jobs/one/manifest.json") == b"{}"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(StorageUnavailable):
            Storage(Settings().artifacts_url, retry_seconds=1).get_bytes("default/jobs/one/manifest.json")


def can_write(storage: Storage) -> bool:
    try:
        storage.put_bytes(b"{}", "default/jobs/one/manifest.json")
    except StorageUnavailable:
        return False
    return True
