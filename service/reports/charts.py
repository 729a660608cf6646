"""Coordinates and texts of the report's charts; the templates draw them as SVG. Pure functions."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from service.contract.answers.report import LayerWidth, Report
from service.contract.answers.result import CurvePoint, Estimate, Metrics, RecoveryResult
from service.reports.formatting import milliseconds, percent
from service.reports.metric_names import capitalised, metric_name

AXIS_START, AXIS_LENGTH = 12, 440  # of the axis of intervals, which goes from 0 to 1
LINE_HEIGHT = 38  # of an interval: its text, and below it its line
PLOT_LEFT, PLOT_TOP, PLOT_WIDTH, PLOT_HEIGHT = 52, 14, 410, 190  # of the curve


# --- heat maps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The share that one layer keeps; None where it is not known."""

    layer: int
    share: float | None


@dataclass(frozen=True)
class HeatMap:
    """The cells of one stack and kind of unit: the share of its units that stay, or of their scores."""

    name: str  # such as "decoder ffn"
    quantity: str  # "units" or "score"
    cells: list[Cell]


def heat_maps(layers: Iterable[LayerWidth]) -> Iterator[HeatMap]:
    """The maps of every stack and kind of unit: one of units, and one of scores where the scores are known."""
    ordered = sorted(layers, key=lambda layer: (layer.stack, layer.part, layer.layer))
    for (stack, part), group in groupby(ordered, key=lambda layer: (layer.stack, layer.part)):
        found, name = list(group), f"{stack} {part}"
        yield HeatMap(name, "units", [Cell(layer.layer, layer.slim / layer.dense) for layer in found])
        if any(layer.score_kept is not None for layer in found):
            yield HeatMap(name, "score", [Cell(layer.layer, layer.score_kept) for layer in found])


# --- intervals -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """The coordinates of an estimate and its interval, on an axis from 0 to 1."""

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
    """The x coordinate of a metric on the axis of intervals; a negative correlation is at its start."""
    return round(AXIS_START + max(0.0, share) * AXIS_LENGTH, 1)


def intervals(named: Iterable[tuple[str, Metrics]]) -> list[Interval]:
    """The metric of each named model, one below the other."""
    return [Interval(name, metrics.value, LINE_HEIGHT * row + 30) for row, (name, metrics) in enumerate(named)]


# --- measured models by size ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A measured model: x is its size, y its metric or latency, low and high are the ends of the interval."""

    x: float
    y: float
    low: float | None
    high: float | None
    name: str
    kind: str  # dense, chosen, met, missed or measured
    left: float | None = None  # the ends of the interval of a metric on the x axis
    right: float | None = None


@dataclass(frozen=True)
class Curve:
    """Measured models by size, or by their metric on general rows. Ticks are (coordinate, text)."""

    title: str
    metric: str  # the name of the quantity on the y axis
    marks: list[Mark]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bound: float | None  # the y coordinate of the target
    axis: str = "parameters, share of the dense model’s"  # what the x axis shows
    follows_size: bool = True  # whether the line goes through the marks by size, or in the order of the models

    @property
    def line(self) -> str:
        """The points of a polyline through the marks."""
        marks = sorted(self.marks, key=lambda mark: mark.x) if self.follows_size else self.marks
        return " ".join(f"{mark.x},{mark.y}" for mark in marks)


# --- the losses of a recovery ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossCurve:
    """The losses of a training by step. Ticks are (coordinate, text); lines are the points of polylines."""

    held_out: str
    train: str
    best: tuple[float, float]  # the coordinates of the step whose weights were kept
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def loss_curve(recovery: RecoveryResult | None) -> LossCurve | None:
    """The loss curve of a recovery; None for a job without one."""
    if recovery is None:
        return None
    found = [loss for point in recovery.losses for loss in (point.train, point.held_out) if loss is not None]
    steps, most = max(1, recovery.losses[-1].step), max(found) or 1.0

    def place(step: int, loss: float) -> tuple[float, float]:
        return round(PLOT_LEFT + PLOT_WIDTH * step / steps, 1), round(PLOT_TOP + PLOT_HEIGHT * (1 - loss / most), 1)

    def line(points: Iterable[tuple[int, float | None]]) -> str:
        return " ".join(f"{x},{y}" for x, y in (place(step, loss) for step, loss in points if loss is not None))

    best = next(point for point in recovery.losses if point.step == recovery.best_step)
    return LossCurve(
        held_out=line((point.step, point.held_out) for point in recovery.losses),
        train=line((point.step, point.train) for point in recovery.losses),
        best=place(best.step, best.held_out),
        x_ticks=[(place(round(steps * part / 4), 0)[0], str(round(steps * part / 4))) for part in range(5)],
        y_ticks=[(place(0, most * part / 4)[1], f"{most * part / 4:.3g}") for part in range(5)],
    )


# --- the curve of a search -------------------------------------------------------------------------------------------


def curve(report: Report) -> Curve | None:
    """The models that a sweep or a search has measured; None for a job without one."""
    points = report.result.curve
    if any(point.general for point in points):
        return _general_curve(report)
    if any(point.metric for point in points):
        return _metric_curve(report)
    return _latency_curve(report) if any(point.latency_ms for point in points) else None


def _general_curve(report: Report) -> Curve:
    """Models of one size by their metric on general rows and that on the task, in the order of their weights."""
    points = [(point, point.general, point.metric) for point in report.result.curve if point.general and point.metric]
    metrics = report.result.metrics
    across_axis = _Axis.around([general for _, general, _ in points], PLOT_LEFT, PLOT_WIDTH)
    up_axis = _Axis.around([metric for _, _, metric in points], PLOT_TOP + PLOT_HEIGHT, -PLOT_HEIGHT)
    own = report.request.method.general_weight
    marks = [
        Mark(
            x=across_axis.at(general.value),
            y=up_axis.at(metric.value),
            low=up_axis.at(metric.low),
            high=up_axis.at(metric.high),
            name=_weighed_name(point),
            kind="chosen" if point.general_weight == own else "measured",
            left=across_axis.at(general.low),
            right=across_axis.at(general.high),
        )
        for point, general, metric in points
    ]
    name = metric_name(metrics.slim)
    on_general = metric_name(metrics.general.slim) if metrics.general else "metric"
    return Curve(
        title=f"General rows and the task: {name} by general weight",
        metric=name,
        marks=marks,
        x_ticks=across_axis.ticks(),
        y_ticks=up_axis.ticks(),
        bound=None,
        axis=f"{on_general} on general rows",
        follows_size=False,
    )


def _weighed_name(point: CurvePoint) -> str:
    """What a mark of a general weight stands for: the shares of the dense model's metrics that it keeps."""
    kept = " and ".join(percent(share.value) for share in (point.share, point.general_share) if share)
    return f"general weight {point.general_weight:g}: {kept} of the dense model on the task and on general rows"


@dataclass(frozen=True)
class _Axis:
    """An axis from `least` to `most`, which begins at the coordinate `start` and has a signed length."""

    least: float
    most: float
    start: float
    length: float

    @classmethod
    def around(cls, estimates: Sequence[Estimate], start: float, length: float) -> "_Axis":
        """An axis that shows all estimates with their intervals."""
        low, high = min(each.low for each in estimates), max(each.high for each in estimates)
        return cls(math.floor(low * 10) / 10, math.ceil(high * 10) / 10, start, length)

    def at(self, value: float) -> float:
        return round(self.start + self.length * (value - self.least) / ((self.most - self.least) or 1), 1)

    def ticks(self) -> list[tuple[float, str]]:
        steps = [self.least + (self.most - self.least) * step / 4 for step in range(5)]
        return [(self.at(share), f"{share * 100:.3g} %") for share in steps]


def _metric_curve(report: Report) -> Curve:
    """The models by their metric, and the dense model."""
    points = [(point, point.metric) for point in report.result.curve if point.metric is not None]
    dense, target = _dense_metric(report.result.curve), report.request.target
    name = metric_name(report.result.metrics.slim)
    floor = target.keep_metric * dense if target.keep_metric and dense else None
    ends = [end for _, metric in points for end in (metric.low, metric.high)]
    ends += [end for end in (dense, floor) if end is not None]
    scale = _Scale(math.floor(min(ends) * 10) / 10, math.ceil(max(ends) * 10) / 10, _largest(report))
    marks = [scale.mark(point.parameters, metric, _kind(point, report)) for point, metric in points]
    if dense is not None:
        whole = Estimate(value=dense, low=dense, high=dense)
        marks.append(scale.mark(report.result.parameters.dense, whole, "dense"))
    steps = [scale.least + (scale.most - scale.least) * step / 4 for step in range(5)]
    y_ticks = [(scale.y(share), f"{share * 100:.3g} %") for share in steps]
    bound = None if floor is None else scale.y(floor)
    title = f"{capitalised(name)} of the models that were measured"
    return Curve(title, name, marks, scale.x_ticks(), y_ticks, bound)


def _dense_metric(points: Sequence[CurvePoint]) -> float | None:
    """The dense model's metric, recomputed from the point with the most rows: metric = share x dense metric."""
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
    y_ticks = [(scale.y(most * step / 4), f"{most * step / 4:.3g} ms") for step in range(5)]
    return Curve(
        "Latency of the models that were measured",
        "latency",
        marks,
        scale.x_ticks(),
        y_ticks,
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
    """The axes: parameters from 0 to `largest` on x, a metric or latency from `least` to `most` on y."""

    least: float
    most: float
    largest: int

    def x(self, parameters: float) -> float:
        return round(PLOT_LEFT + PLOT_WIDTH * parameters / self.largest, 1)

    def y(self, value: float) -> float:
        share = (value - self.least) / ((self.most - self.least) or 1)
        return round(PLOT_TOP + PLOT_HEIGHT * (1 - share), 1)

    def mark(self, parameters: int, figure: Estimate | float, kind: str) -> Mark:
        if isinstance(figure, Estimate):
            value, low, high, shown = figure.value, self.y(figure.low), self.y(figure.high), percent(figure.value)
        else:
            value, low, high, shown = figure, None, None, milliseconds(figure)
        return Mark(self.x(parameters), self.y(value), low, high, f"{parameters:,} parameters: {shown}", kind)

    def x_ticks(self) -> list[tuple[float, str]]:
        return [(self.x(self.largest * step / 4), f"{step * 25} %") for step in range(5)]
