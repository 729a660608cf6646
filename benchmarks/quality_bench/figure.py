"""The figure of RESULTS.md's part on quality."""

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.quality_bench.cells import BASELINES, OURS, RATIOS, RIVALS
from benchmarks.quality_bench.summary import Records, kept, row
from benchmarks.quality_bench.text import LAYOUTS, REPAIRS

PANELS: dict[str, dict[str, Any]] = {
    f"{layout.replace('_', '-')} widths, {name}": {"layout": layout, "repair": repair}
    for layout, (repair, name) in product(LAYOUTS, REPAIRS.items())
}


def draw(records: Records, path: Path) -> None:
    """One panel for each layout and repair: the mean over six tasks by the share removed."""
    mpl.rcParams["svg.hashsalt"] = path.name  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True).flatten()
    for axis, (title, choices) in zip(axes, PANELS.items(), strict=True):
        _panel(axis, records, title, choices)
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda pair: len(pair[1]))
    if labels:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _panel(axis: Axes, records: Records, title: str, choices: dict[str, Any]) -> None:
    for number, method in enumerate((OURS, *RIVALS, *BASELINES)):
        shares = [(ratio, kept(records, row(method, ratio, **choices))) for ratio in sorted(RATIOS)]
        known = [(ratio, share) for ratio, share in shares if share is not None]
        if known:
            width = 2.5 if method == OURS else 1.2
            axis.plot(*zip(*known, strict=True), marker="o", color=f"C{number}", linewidth=width, label=method)
    if not axis.lines:
        axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes, color="grey")
    axis.axhline(1, color="grey", linestyle=":", linewidth=1)
    axis.set(title=title, xlabel="share removed", ylabel="kept of dense accuracy", xticks=sorted(RATIOS))
