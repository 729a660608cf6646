"""pyproject.toml: each extra brings every package that the modules of its process import when they are loaded.

tests/test_extras.py installs each extra alone, which takes minutes; this test finds a missing package in seconds.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = ("service", "worker")
# Extra -> the modules that its process loads.
STARTS = {
    "service": ("service.cli.commands.serve", "service.api.app"),
    "worker": ("worker.__main__", "worker.pipeline"),
    "privacy": ("service.cli.commands.privatise", "service.privacy.statement", "service.sources.hub"),
}


def installed_with(extra: str) -> set[str]:
    """The distributions that an installation with one extra has: those of pyproject.toml, and what these require."""
    found: set[str] = set()
    todo = [Requirement(text) for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra])]
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or ():
            required = Requirement(text)
            extras = ["", *wanted.extras]
            if not required.marker or any(required.marker.evaluate({"extra": each}) for each in extras):
                todo.append(required)
    return found


def path_of(module: str) -> Path | None:
    """The file of a module of ours; None for a name that is no module."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported_on_load(path: Path) -> Iterator[str]:
    """The modules that a file imports outside of functions, each with the names that it takes from one of ours."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.split(".")[0] in OWN:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_with(starts: tuple[str, ...]) -> dict[str, str]:
    """Package of another project -> a module of ours that imports it, over all that the first modules load."""
    found: dict[str, str] = {}
    seen, todo = set[str](), [*starts]
    while todo:
        module = todo.pop()
        path = path_of(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in imported_on_load(path):
            top = name.split(".")[0]
            if top in OWN:
                todo.append(name)
            elif top not in sys.stdlib_module_names:
                found[top] = module
    assert len(seen) > 20
    return found


@pytest.mark.parametrize("extra", STARTS)
def test_extra_brings_what_its_process_imports(extra: str) -> None:
    distributions, has = packages_distributions(), installed_with(extra)
    missing = {
        package: module
        for package, module in loaded_with(STARTS[extra]).items()
        if not has & set(map(canonicalize_name, distributions[package]))
    }
    assert missing == {}
