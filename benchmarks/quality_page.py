"""Placeholder."""

from pathlib import Path


def write(records, directory: Path) -> None: ...
