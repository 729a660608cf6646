"""The contributor's guide names files, tables and commands; all of them have to exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/contributing.md").read_text()
CODE = re.findall(r"`([^`\n]+)`", GUIDE)
PATHS = sorted(
    {word for code in CODE for word in code.split() if re.fullmatch(r"[\w.]+(/[\w.]+)*(/|\.(py|json|md))", word)}
)
TABLES = sorted(set(re.findall(r"`(\w+)` in (?:the rows of )?`([\w/]+\.py)`", GUIDE)))
TARGETS = sorted(set(re.findall(r"`make ([\w-]+)`", GUIDE)))


def test_guide_names_paths_tables_and_commands() -> None:
    assert len(PATHS) > 30
    assert len(TABLES) > 10
    assert {"setup", "test", "check", "openapi"} <= set(TARGETS)


@pytest.mark.parametrize("path", PATHS)
def test_path_in_the_guide_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("name", "path"), TABLES)
def test_name_in_the_guide_is_defined_in_its_file(name: str, path: str) -> None:
    definition = rf"^\s*(class |def )?{name}\b *(\(|:|=)"
    assert re.search(definition, (ROOT / path).read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_command_in_the_guide_is_a_target_of_the_makefile(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
