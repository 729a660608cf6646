"""The Dockerfile and the compose file as data, and their commands as processes."""

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
    """The stages of the Dockerfile by name."""
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


def instructions_of(stage: str) -> list[Instruction]:
    """The instructions of a stage, after those of the stages that it is based on."""
    found = STAGES.get(stage)
    return instructions_of(found.base) + found.instructions if found else []


def last(stage: str, name: str) -> str:
    """The text of the last instruction of that name, which is the one in force."""
    return [instruction.text for instruction in instructions_of(stage) if instruction.name == name][-1]


def variables(stage: str) -> dict[str, str]:
    """The environment variables that an image sets."""
    texts = [instruction.text for instruction in instructions_of(stage) if instruction.name == "ENV"]
    return dict(part.split("=", 1) for text in texts for part in text.split())


def read_compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())["services"]
    return services


COMPOSE = read_compose()


SECRETS = {"SLIM_API_KEY": f"slim_live_first_{'a' * 32}", "S3_SECRET": "s" * 32}


def filled_in(value: object) -> str:
    """A value of the compose file with its ${VARIABLES} replaced: secrets by `SECRETS`, others by their defaults."""
    return re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda match: SECRETS.get(match[1], match[2]), str(value))


def environment(service: str) -> dict[str, str]:
    return {name: filled_in(value) for name, value in COMPOSE[service].get("environment", {}).items()}


@contextmanager
def running(command: list[str], variables: Mapping[str, str], directory: Path) -> Iterator[None]:
    """Run a process during the block. Fails with its output if it ends early."""
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
