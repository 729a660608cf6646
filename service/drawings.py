"""The report's drawings as figures and places: `pages/report.html` puts them on the page as SVG."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from service.schemas import Estimate, LayerWidth, Metrics

LAYERS_PER_MAP = 32
AXIS_START, AXIS_LENGTH = 12, 440  # of the intervals' axis, from 0 to 1
LINE_HEIGHT = 38  # of an interval: its figures, and its line below them
LETTER_WIDTH = 6.8


@dataclass(frozen=True)
class Cell:
    """What one layer keeps, None where it is not known; `column` counts from the left of its map."""

    column: int
    layer: int
    share: float | None


@dataclass(frozen=True)
class HeatRow:
    """One line of a heat map: of the units of one kind in one stack, or of their scores."""

    name: str
    what: str
    cells: list[Cell]


@dataclass(frozen=True)
class HeatMap:
    """Lines that share their columns, the layers `first` and on."""

    first: int
    columns: int
    rows: list[HeatRow]

    @property
    def left(self) -> int:
        """Where the columns begin: behind the longest name."""
        return round(LETTER_WIDTH * max(len(row.name) + 6 for row in self.rows))


def heat_maps(layers: Sequence[LayerWidth]) -> Iterator[HeatMap]:
    """Kept share of units, and of their scores where known, of every stack and part; deep stacks on several maps."""
    depth = max((layer.layer + 1 for layer in layers), default=0)
    for first in range(0, depth, LAYERS_PER_MAP):
        shown = [layer for layer in layers if first <= layer.layer < first + LAYERS_PER_MAP]
        columns = max(layer.layer for layer in shown) + 1 - first
        yield HeatMap(first, columns, [row for part in _parts(shown) for row in _rows(part, first)])


def _parts(layers: Iterable[LayerWidth]) -> Iterator[list[LayerWidth]]:
    """The layers of each stack and part, in their order."""
    ordered = sorted(layers, key=lambda layer: (layer.stack, layer.part, layer.layer))
    for _, part in groupby(ordered, key=lambda layer: (layer.stack, layer.part)):
        yield list(part)


def _rows(part: Sequence[LayerWidth], first: int) -> Iterator[HeatRow]:
    name = f"{part[0].stack} {part[0].part}"
    yield HeatRow(name, "units", [Cell(layer.layer - first, layer.layer, layer.slim / layer.dense) for layer in part])
    if any(layer.score_kept is not None for layer in part):
        yield HeatRow(name, "score", [Cell(layer.layer - first, layer.layer, layer.score_kept) for layer in part])


@dataclass(frozen=True)
class Interval:
    """An estimate on an axis from 0 to 1."""

    name: str
    estimate: Estimate
    y: int

    @property
    def low(self) -> float:
        return across(self.estimate.low)

    @property
    def high(self) -> float:
        return across(self.estimate.high)

    @property
    def at(self) -> float:
        return across(self.estimate.value)


def across(share: float) -> float:
    """Where a share lies on the intervals' axis."""
    return round(AXIS_START + share * AXIS_LENGTH, 1)


def intervals(named: Iterable[tuple[str, Metrics]]) -> list[Interval]:
    """The headline of each model, one below the other."""
    found = [(name, metrics.headline) for name, metrics in named]
    present = [(name, estimate) for name, estimate in found if estimate is not None]
    return [Interval(name, estimate, LINE_HEIGHT * row + 30) for row, (name, estimate) in enumerate(present)]
