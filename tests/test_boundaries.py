"""What each package loads, seen in a fresh interpreter: the import boundaries are the architecture."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH = {"torch", "transformers", "worker"}
WEB = {"fastapi", "starlette", "uvicorn"}
SERVICES = {"redis", "rq", "obstore", "transformers", "service", "pydantic", "structlog"}


def modules_of(package: str) -> list[str]:
    """Every module of a package, by its files."""
    paths = (ROOT / package).rglob("*.py")
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


# What the worker and the command line share with the API, although the worker's image has no web framework.
SHARED = [
    name
    for name in modules_of("service")
    if not name.startswith("service.api") and name not in ("service.cli.openapi", "service.cli.demo.server")
]


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (modules_of("service"), TORCH),
        (SHARED, WEB),
        (["worker.__main__", "worker.tasks"], WEB),
        (modules_of("worker/slimming"), SERVICES),
    ],
    ids=[
        "service knows no torch",
        "only the door knows fastapi",
        "the worker needs no fastapi",
        "slimming knows torch",
    ],
)
def test_a_package_loads_only_what_it_may(modules: list[str], forbidden: set[str]) -> None:
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & forbidden
