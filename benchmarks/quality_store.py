"""quality.json: one record for each measured cell, written the moment it is measured."""

import json
from pathlib import Path
from typing import Any

from benchmarks.quality_cells import Cell

Record = dict[str, Any]


class Store:
    """The records of a file by their cell's key. An interrupted run leaves every finished cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        if path.exists():
            content = json.loads(path.read_text())
            self.records = {Cell.of(record).key: record for record in content["cells"]}

    def put(self, cell: Cell, measurement: Record) -> None:
        """Add one cell; the file is replaced as a whole, so that no reader sees half of it."""
        self.records[cell.key] = {**vars(cell), **measurement}
        lines = ",\n".join(json.dumps(self.records[key]) for key in sorted(self.records))
        partial = self.path.with_suffix(".partial")
        partial.write_text(f'{{"cells": [\n{lines}\n]}}\n')
        partial.replace(self.path)
