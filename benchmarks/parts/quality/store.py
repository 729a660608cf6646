"""The file of the quality benchmark: a CSV compressed by gzip, with one row for each measured cell."""

import csv
import fcntl
import gzip
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from benchmarks.parts.quality.cells import Cell
from benchmarks.parts.quality.measurement import Measurement, Measurements, as_row, columns, from_row


class Store:
    """The measurements in a file. Each is written when it is taken, so that an interrupted run loses none.

    Several runs may write to one file at the same time: each keeps the rows of the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.measurements = self._read()

    def read_again(self) -> Self:
        """The store with what other runs have written since."""
        self.measurements = self._read()
        return self

    def unmeasured(self, cells: Iterable[Cell], with_offsets: bool = False) -> list[Cell]:
        """The cells that the store does not have, each once, in order."""
        return [cell for cell in dict.fromkeys(cells) if not self.has(cell, with_offsets)]

    def has(self, cell: Cell, with_offsets: bool = False) -> bool:
        """Whether the cell is measured, if asked with label offsets too."""
        found = self.measurements.get(cell)
        return found is not None and (not with_offsets or found.value is not None)

    def put(self, cell: Cell, measurement: Measurement) -> None:
        """Add one measurement. The file is replaced as a whole, so that a reader never sees a part of it."""
        with _locked(self.path.parent):
            self.measurements = self._read() | {cell: measurement}
            partial = self.path.with_suffix(".partial")
            partial.write_bytes(compressed(self.measurements))
            partial.replace(self.path)

    def _read(self) -> dict[Cell, Measurement]:
        if not self.path.exists():
            return {}
        with gzip.open(self.path, "rt", encoding="utf-8", newline="") as file:
            return dict(map(from_row, csv.DictReader(file)))


def compressed(measurements: Measurements) -> bytes:
    """The content of the file: rows in the order of their cells' keys; equal measurements give equal bytes."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_row(cell, measurements[cell]) for cell in sorted(measurements, key=lambda cell: cell.key))
    return gzip.compress(text.getvalue().encode(), mtime=0)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory, so that no two runs replace a file in it at the same time."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
