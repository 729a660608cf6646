"""The Dockerfile and the compose file as data, and what they describe as plain processes."""

import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from service.infrastructure.child_process import child_command

ROOT = Path(__file__).parents[2]
TARGETS = {"api": "service", "worker": "worker"}  # compose service -> stage of the Dockerfile
STORES = ("valkey", "seaweedfs")


class Instruction(NamedTuple):
    name: str
    text: str


class Stage(NamedTuple):
    base: str
    instructions: list[Instruction]


def read_dockerfile() -> dict[str, Stage]:
    """The stages by name."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages: dict[str, Stage] = {}
    for line in lines:
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            current = stages[alias] = Stage(base, [])
        else:
            current.instructions.append(Instruction(name, rest.strip()))
    return stages


STAGES = read_dockerfile()


def lineage(stage: str) -> list[Instruction]:
    """What makes a stage, its bases first."""
    found = STAGES.get(stage)
    return lineage(found.base) + found.instructions if found else []


def last(stage: str, name: str) -> str:
    return [instruction.text for instruction in lineage(stage) if instruction.name == name][-1]


def variables(stage: str) -> dict[str, str]:
    texts = [instruction.text for instruction in lineage(stage) if instruction.name == "ENV"]
    return dict(part.split("=", 1) for text in texts for part in text.split())


def read_compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())["services"]
    return services


COMPOSE = read_compose()


SECRETS = {"SLIM_API_KEY": f"slim_live_first_{'a' * 32}", "S3_SECRET": "s" * 32}


def filled_in(value: object) -> str:
    """A compose value with its ${VARIABLES} set: the secrets to these, others to their defaults."""
    return re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda match: SECRETS.get(match[1], match[2]), str(value))


def environment(service: str) -> dict[str, str]:
    return {name: filled_in(value) for name, value in COMPOSE[service].get("environment", {}).items()}


@contextmanager
def running(command: list[str], variables: Mapping[str, str], directory: Path) -> Iterator[None]:
    """The process while the block runs; its output is in the assertion when it ends early."""
    log = directory / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            child_command(command, signal.SIGTERM), env=dict(variables), cwd=directory, stdout=output, stderr=output
        )
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.kill()  # SeaweedFS' graceful end takes half a minute
            process.wait()
