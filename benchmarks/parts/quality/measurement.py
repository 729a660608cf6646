"""What the quality benchmark measures of a cell, and its form as a row of a CSV file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchmarks.parts.quality.cells import Cell
from service.contract.answers.result import Estimate

ENDS = ("low", "high")  # of the interval of an estimate; each has a column of its own
ESTIMATES = ("value", "raw")
TEXTS = ("model", "task", "split", "method", "layout", "repair", "calibration", "draw", "supervision", "metric")
INTEGERS = ("rows", "steps", "examples", "seed", "judged", "parameters")


@dataclass(frozen=True)
class Measurement:
    """The figures of one cell; None where a figure does not apply or was not taken."""

    judged: int | None = None  # evaluation rows
    metric: str | None = None  # of the task
    value: Estimate | None = None  # the metric with its 95 % interval, with label offsets; None in older cells
    raw: Estimate | None = None  # the metric without label offsets
    majority: float | None = None  # share of the rows that have the most frequent label
    parameters: int | None = None
    removed: float | None = None  # share of the units' parameters
    seconds: float | None = None  # to score the units
    seconds_to_judge: float | None = None
    seconds_to_cut: float | None = None


Measurements = Mapping[Cell, Measurement]


def rounded(estimate: Estimate) -> Estimate:
    """The estimate with four decimals."""
    return Estimate(value=round(estimate.value, 4), low=round(estimate.low, 4), high=round(estimate.high, 4))


def columns() -> list[str]:
    """The names of the columns: the fields of a cell, then those of its measurement."""
    of_measurement = [
        column
        for field in fields(Measurement)
        for column in (field.name, *(f"{field.name}_{end}" for end in ENDS if field.name in ESTIMATES))
    ]
    return [field.name for field in fields(Cell)] + of_measurement


def as_row(cell: Cell, measurement: Measurement) -> dict[str, Any]:
    """The row of a measured cell: column -> value; units are joined by `+`."""
    row: dict[str, Any] = {**vars(cell), **vars(measurement), "units": "+".join(cell.units)}
    for name in ESTIMATES:
        if (estimate := row[name]) is not None:
            row |= {name: estimate.value} | {f"{name}_{end}": getattr(estimate, end) for end in ENDS}
    return row


def from_row(row: Mapping[str, str]) -> tuple[Cell, Measurement]:
    """The inverse of `as_row`, from a row that was read as text."""
    cell = Cell(**{field.name: _parse(field.name, row[field.name]) for field in fields(Cell)})
    figures = {field.name: _parse(field.name, row[field.name]) for field in fields(Measurement) if row.get(field.name)}
    for name in set(ESTIMATES) & figures.keys():
        low, high = (float(row[f"{name}_{end}"]) for end in ENDS)
        figures[name] = Estimate(value=figures[name], low=low, high=high)
    return cell, Measurement(**figures)


def _parse(column: str, text: str) -> Any:
    if column == "units":
        return tuple(text.split("+")) if text else ()
    if column in INTEGERS:
        return int(text)
    return text if column in TEXTS else float(text)
