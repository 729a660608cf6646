"""Writes the OpenAPI document and the examples to openapi/.

python -m service.cli.openapi --write   # or --check, which fails where a file differs from the code
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from service.api.app import create_app
from service.api.openapi.examples import FILES
from service.settings import Settings

DIRECTORY = Path("openapi")


def files() -> dict[Path, str]:
    """Path under openapi/ -> content: the document and every example."""
    contents: dict[str, Any] = {"openapi.json": create_app(Settings()).openapi()}
    contents |= {f"examples/{name}.json": example for name, example in FILES.items()}
    return {Path(name): _text(content) for name, content in contents.items()}


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=content.get("openapi") is not None, ensure_ascii=False) + "\n"


def stale(directory: Path, wanted: dict[Path, str]) -> list[Path]:
    """The files under `directory` that differ from those wanted, are missing, or do not belong there."""
    present = {path.relative_to(directory) for path in directory.rglob("*.json")}
    differing = {name for name in wanted.keys() & present if (directory / name).read_text() != wanted[name]}
    return sorted(differing | (wanted.keys() ^ present))


def write(directory: Path) -> None:
    """Bring `directory` up to date."""
    wanted = files()
    for name in stale(directory, wanted):
        if name in wanted:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(wanted[name])
        else:
            (directory / name).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    if parser.parse_args().write:
        write(DIRECTORY)
    elif differing := stale(DIRECTORY, files()):
        names = ", ".join(str(DIRECTORY / name) for name in differing)
        sys.exit(f"out of date: {names}; run `python -m service.cli.openapi --write`")


if __name__ == "__main__":
    main()
