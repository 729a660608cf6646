"""The figure of the quality benchmark: accuracy kept by share removed, as SVG."""

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.parts.quality.captions import LAYOUTS, REPAIRS
from benchmarks.parts.quality.cells import BASELINES, OURS, RATIOS, RIVALS
from benchmarks.parts.quality.measurement import Measurements
from benchmarks.parts.quality.summary import kept, row

PANELS: dict[str, dict[str, Any]] = {
    f"{layout.replace('_', '-')} widths, {name}": {"layout": layout, "repair": repair}
    for layout, (repair, name) in product(LAYOUTS, REPAIRS.items())
}


def draw(measured: Measurements, path: Path) -> None:
    """Write the figure: one panel for each layout and repair, each with one line for each method."""
    mpl.rcParams["svg.hashsalt"] = path.name  # equal measurements give an equal file
    mpl.rcParams["svg.fonttype"] = "none"  # text is not turned into paths
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    for axis, (title, choices) in zip(axes, PANELS.items(), strict=True):
        _panel(axis, measured, title, choices)
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[1]))
    if labels:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _panel(axis: Axes, measured: Measurements, title: str, choices: dict[str, Any]) -> None:
    for number, method in enumerate((OURS, *RIVALS, *BASELINES)):
        shares = [(ratio, kept(measured, row(method, ratio, **choices))) for ratio in sorted(RATIOS)]
        known = [(ratio, share) for ratio, share in shares if share is not None]
        if known:
            width = 2.5 if method == OURS else 1.2
            axis.plot(*zip(*known, strict=True), marker="o", color=f"C{number}", linewidth=width, label=method)
    if not axis.lines:
        axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes, color="grey")
    axis.axhline(1, color="grey", linestyle=":", linewidth=1)
    axis.set(title=title, xlabel="share removed", ylabel="kept of dense accuracy", xticks=sorted(RATIOS))
