"""The packages import one way: each knows only the packages below it. A fresh interpreter shows what is loaded."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TORCH = {"torch", "transformers", "worker"}
WEB = {"fastapi", "starlette", "uvicorn"}
OF_EXTRAS = WEB | {
    "huggingface_hub",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
}  # that the command line alone lacks
SERVICES = {"redis", "rq", "obstore", "transformers", "service", "pydantic", "structlog"}

# From the ground up: a package imports those before it, and none of its own line.
SERVICE_LAYERS = (
    {"contract", "settings"},
    {"models.quantisation", "rows", "models.tensors", "models.vocabulary"},
    {"models.families"},
    {"infrastructure"},
    {"tenants", "reports"},
    {"storage"},
    {"sources"},
    {"exports"},
    {"planning", "privacy"},
    {"jobs"},
    {"webhooks"},
    {"api"},
    {"cli"},
)
FOR_WORKER = {
    "contract",
    "settings",
    "models.quantisation",
    "rows",
    "models.tensors",
    "models.vocabulary",
    "models.families",
    "exports",
    "infrastructure",
    "storage",
    "sources",
    "jobs",
    "reports",
}
# Modules of one package may import each other; of these packages of the worker each imports those before it.
WORKER_LAYERS = (
    {"slimming"},
    {"data", "sources"},
    {"checkpoints", "evaluation"},
    {"exports", "quantisation"},
    {"recovery", "synthesis"},
    {"stages"},
    {"search"},
    {"reporting"},
    {"pipeline"},
    {"attempts"},
    {"tasks", "__main__"},
)


def modules_of(package: str) -> list[str]:
    """Every module of a package, by its files."""
    paths = (ROOT / package).rglob("*.py")
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def package_of(module: str) -> tuple[str, str]:
    """("service", "jobs") of "service.jobs.store", ("service", "models.tensors") of "service.models.tensors.names"."""
    top, *rest = module.split(".")
    return top, ".".join(rest[: 2 if rest[:1] == ["models"] else 1])


def imports_between(top: str) -> set[tuple[str, tuple[str, str], str]]:
    """(package, imported package, the module that imports it) of all modules under `top`."""
    found = set()
    for path in (ROOT / top).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                found.add((package_of(module)[1], package_of(name), module))
    return found


def allowed(layers: tuple[set[str], ...], package: str) -> set[str]:
    """The packages before the one of `package`, and itself."""
    index = next(index for index, layer in enumerate(layers) if package in layer)
    return set().union(*layers[:index], {package})


def test_service_packages_import_only_packages_below_them() -> None:
    wrong = {
        (module, target)
        for package, (top, target), module in imports_between("service")
        if package and (top == "worker" or (top == "service" and target not in allowed(SERVICE_LAYERS, package)))
    }
    assert not wrong


def test_worker_packages_import_only_packages_below_them() -> None:
    wrong = {
        (module, target)
        for package, (top, target), module in imports_between("worker")
        if package and top == "worker" and target not in allowed(WORKER_LAYERS, package)
    }
    assert not wrong


def test_worker_imports_only_its_share_of_the_service() -> None:
    wrong = {
        (module, target)
        for _, (top, target), module in imports_between("worker")
        if top == "service" and target not in FOR_WORKER
    }
    assert not wrong


def test_every_package_has_a_layer() -> None:
    for top, layers in (("service", SERVICE_LAYERS), ("worker", WORKER_LAYERS)):
        packages = {package_of(module)[1] for module in modules_of(top)}
        assert packages - {"", "models"} == set().union(*layers)


def test_client_for_pipelines_imports_httpx_alone() -> None:
    paths = [*(ROOT / "clients/python/taskslim_client").glob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert tops == {"httpx", "taskslim_client"}


def test_only_the_api_package_imports_fastapi() -> None:
    importers = {module: top for _, (top, _), module in imports_between("service") if top in WEB}
    outside = {(module, top) for module, top in importers.items() if package_of(module)[1] != "api"}
    assert outside <= {("service.cli.commands.serve", "uvicorn")}  # the command that starts the server


# Modules of the service that the worker's image must import without a web framework.
WITHOUT_WEB = [
    name
    for name in modules_of("service")
    if not name.startswith("service.api") and name not in ("service.cli.openapi", "service.cli.demo.server")
]


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (modules_of("service"), TORCH),
        (WITHOUT_WEB, WEB),
        (["worker.__main__", "worker.tasks"], WEB),
        (["service.cli.__main__"], OF_EXTRAS),
        (modules_of("worker/slimming"), SERVICES),
    ],
    ids=[
        "service and torch",
        "service below the API and fastapi",
        "worker and fastapi",
        "command line and extras",
        "slimming and services",
    ],
)
def test_package_does_not_load_what_it_may_not(modules: list[str], forbidden: set[str]) -> None:
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert not loaded & forbidden
