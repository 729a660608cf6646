"""The report's drawings as figures and places: `pages/report.html` puts them on the page as SVG."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from service.contract.report import LayerWidth, Report
from service.contract.result import CurvePoint, Estimate, Metrics
from service.reports.metric_names import searched_name

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


# --- accuracy against size -----------------------------------------------------------------------------------------

PLOT_LEFT, PLOT_TOP, PLOT_WIDTH, PLOT_HEIGHT = 52, 14, 410, 190


@dataclass(frozen=True)
class Mark:
    """A model that was measured: its size across, its figure upwards, the ends of its interval where there is one."""

    x: float
    y: float
    low: float | None
    high: float | None
    name: str
    kind: str  # dense, chosen, met, missed or measured


@dataclass(frozen=True)
class Curve:
    """Measured models by size, with the dense one; ticks are (place, text)."""

    title: str
    metric: str  # what upwards is called
    marks: list[Mark]
    across: list[tuple[float, str]]
    upwards: list[tuple[float, str]]
    bound: float | None  # where the line that the target asks for lies

    @property
    def line(self) -> str:
        """The points of a polyline through the marks."""
        return " ".join(f"{mark.x},{mark.y}" for mark in sorted(self.marks, key=lambda mark: mark.x))


def curve(report: Report) -> Curve | None:
    """The models that a sweep or a search has measured; None where there was none."""
    points = report.result.curve
    if any(point.metric for point in points):
        return _metric_curve(report)
    return _latency_curve(report) if any(point.latency_ms for point in points) else None


def _metric_curve(report: Report) -> Curve:
    """By the metric that judged each model, the dense one too."""
    points = [(point, point.metric) for point in report.result.curve if point.metric is not None]
    dense, target, name = _dense_metric(report.result.curve), report.request.target, searched_name(report)
    floor = target.keep_metric * dense if target.keep_metric and dense else None
    ends = [end for _, metric in points for end in (metric.low, metric.high)]
    ends += [end for end in (dense, floor) if end is not None]
    scale = _Scale(math.floor(min(ends) * 10) / 10, math.ceil(max(ends) * 10) / 10, _largest(report))
    marks = [scale.mark(point.parameters, metric, _kind(point, report)) for point, metric in points]
    if dense is not None:
        whole = Estimate(value=dense, low=dense, high=dense)
        marks.append(scale.mark(report.result.parameters.dense, whole, "dense"))
    steps = [scale.least + (scale.most - scale.least) * step / 4 for step in range(5)]
    upwards = [(scale.y(share), f"{share * 100:.3g} %") for share in steps]
    bound = None if floor is None else scale.y(floor)
    title = f"{name[0].upper()}{name[1:]} of the models that were measured"
    return Curve(title, name, marks, scale.ticks(), upwards, bound)


def _dense_metric(points: Sequence[CurvePoint]) -> float | None:
    """The dense model's, on the most rows that judged a model: each share is of it, on the same rows."""
    judged = [point for point in points if point.metric and point.share and point.share.value > 0]
    if not judged:
        return None
    most = max(judged, key=lambda point: point.examples or 0)
    return most.metric.value / most.share.value if most.metric and most.share else None


def _latency_curve(report: Report) -> Curve:
    points = [(point, point.latency_ms) for point in report.result.curve if point.latency_ms is not None]
    bound = report.request.target.latency_ms
    most = max([took for _, took in points] + ([bound.value] if bound else []))
    scale = _Scale(0.0, most, _largest(report))
    marks = [scale.mark(point.parameters, took, _kind(point, report)) for point, took in points]
    upwards = [(scale.y(most * step / 4), f"{most * step / 4:.3g} ms") for step in range(5)]
    return Curve(
        "Latency of the models that were measured",
        "latency",
        marks,
        scale.ticks(),
        upwards,
        scale.y(bound.value) if bound else None,
    )


def _largest(report: Report) -> int:
    return max([report.result.parameters.dense, *(point.parameters for point in report.result.curve)])


def _kind(point: CurvePoint, report: Report) -> str:
    if point.parameters == report.result.parameters.slim:
        return "chosen"
    return {None: "measured", True: "met", False: "missed"}[point.meets]


@dataclass(frozen=True)
class _Scale:
    """Parameters from zero to the largest model across, a figure from `least` to `most` upwards."""

    least: float
    most: float
    largest: int

    def x(self, parameters: float) -> float:
        return round(PLOT_LEFT + PLOT_WIDTH * parameters / self.largest, 1)

    def y(self, figure: float) -> float:
        share = (figure - self.least) / ((self.most - self.least) or 1)
        return round(PLOT_TOP + PLOT_HEIGHT * (1 - share), 1)

    def mark(self, parameters: int, figure: Estimate | float, kind: str) -> Mark:
        if isinstance(figure, Estimate):
            value, low, high, shown = figure.value, self.y(figure.low), self.y(figure.high), f"{figure.value:.1%}"
        else:
            value, low, high, shown = figure, None, None, f"{figure:.3g} ms"
        return Mark(self.x(parameters), self.y(value), low, high, f"{parameters:,} parameters: {shown}", kind)

    def ticks(self) -> list[tuple[float, str]]:
        return [(self.x(self.largest * step / 4), f"{step * 25} %") for step in range(5)]
