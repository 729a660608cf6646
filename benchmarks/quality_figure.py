"""The figure of RESULTS.md's part on quality."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality_cells import ALL_RATIOS, BASELINES, OURS, RIVALS
from benchmarks.quality_summary import Records, kept, row

PANELS: dict[str, dict[str, Any]] = {
    "per-layer widths, repaired": {"layout": "per-layer", "repair": "least_squares"},
    "uniform widths, repaired": {"layout": "uniform", "repair": "least_squares"},
    "per-layer widths, no repair": {"layout": "per-layer", "repair": "none"},
    "uniform widths, no repair": {"layout": "uniform", "repair": "none"},
    "per-layer widths, repaired, all test rows": {"layout": "per-layer", "repair": "least_squares", "rows": 0},
    "uniform widths, repaired layer by layer": {"layout": "uniform", "repair": "least_squares_layerwise"},
}


def draw(records: Records, path: Path) -> None:
    """One panel for each layout and repair: the mean over six tasks by the share removed."""
    mpl.rcParams["svg.hashsalt"] = path.name  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True).flatten(order="F")
    for axis, (title, choices) in zip(axes, PANELS.items(), strict=True):
        _panel(axis, records, title, choices)
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[1]))
    if labels:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _panel(axis: Axes, records: Records, title: str, choices: dict[str, Any]) -> None:
    for number, method in enumerate((OURS, *RIVALS, *BASELINES)):
        shares = [(ratio, kept(records, row(method, ratio, **choices))) for ratio in ALL_RATIOS]
        known = [(ratio, share) for ratio, share in shares if share is not None]
        if known:
            width = 2.5 if method == OURS else 1.2
            axis.plot(*zip(*known, strict=True), marker="o", color=f"C{number}", linewidth=width, label=method)
    if not axis.lines:
        axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes, color="grey")
    axis.axhline(1, color="grey", linestyle=":", linewidth=1)
    axis.set(title=title, xlabel="share removed", ylabel="kept of dense accuracy", xticks=ALL_RATIOS)
