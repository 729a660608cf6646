"""quality.json: one record for each measured cell, written the moment it is measured."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.quality_bench.cells import Cell

Record = dict[str, Any]


class Store:
    """The records of a file by their cell's key. An interrupted run leaves every finished cell.

    Several runs may share the file: each adds to what the others have written by then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = self._read()

    def has(self, cell: Cell) -> bool:
        """Whether the cell is measured, by this run or by one beside it."""
        self.records = self._read()
        return cell.key in self.records

    def put(self, cell: Cell, measurement: Record) -> None:
        """Add one cell; the file is replaced as a whole, so that no reader sees half of it."""
        with _locked(self.path.parent):
            self.records = self._read() | {cell.key: {**vars(cell), **measurement}}
            lines = ",\n".join(json.dumps(self.records[key]) for key in sorted(self.records))
            partial = self.path.with_suffix(".partial")
            partial.write_text(f'{{"cells": [\n{lines}\n]}}\n')
            partial.replace(self.path)

    def _read(self) -> dict[str, Record]:
        if not self.path.exists():
            return {}
        return {Cell.of(record).key: record for record in json.loads(self.path.read_text())["cells"]}


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
