"""What a terminal shows of a job: the bar while it runs, and the table at its end."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from service.schemas import DenseSlim, Estimate, Job, Metrics, Result


def job_bar(console: Console) -> Progress:
    """One line: bar, share of the whole job, and what `describe` says."""
    return Progress(
        BarColumn(bar_width=32), TaskProgressColumn(), TextColumn("{task.description}", markup=False), console=console
    )


def describe(job: Job) -> str:
    """Stage, count within the stage and time left, each where it is known."""
    progress = job.progress
    count = f"{progress.done}/{progress.total} {progress.unit or ''}" if progress.total else ""
    left = f"{progress.eta_seconds:.0f} s left" if progress.eta_seconds is not None else ""
    return f"{job.stage or job.status:<15}{count:<20}{left}"


def result_table(result: Result) -> Table:
    """Before and after, every figure from the job's result."""
    dense, slim = result.metrics.dense, result.metrics.slim
    table = Table(title=f"{result.ratio:.1%} of the feed-forward neurons removed", title_justify="left")
    for header in ("", "dense", "slim", "change"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    table.add_row("parameters", *_counts(result.parameters, 1e6, "M"))
    table.add_row("bytes", *_counts(result.bytes, 1e6, "MB"))
    table.add_row(f"accuracy, {dense.examples} rows", *_shares(dense.accuracy, slim.accuracy))
    table.add_row("  calibrated", *_shares(dense.calibrated_accuracy, slim.calibrated_accuracy))
    table.add_row("  majority class", *_majorities(dense, slim))
    latency = result.latency_ms
    place = f"latency, {latency.batch} x {latency.tokens} tokens, {latency.device}"
    table.add_row(place, f"{latency.dense:.1f} ms", f"{latency.slim:.1f} ms", _change(latency.dense, latency.slim))
    table.caption = "brackets: 95 % interval; latency: median forward pass"
    return table


def _counts(pair: DenseSlim, scale: float, unit: str) -> tuple[str, str, str]:
    return (
        f"{pair.dense / scale:.1f} {unit}",
        f"{pair.slim / scale:.1f} {unit}",
        _change(pair.dense, pair.slim),
    )


def _change(dense: float, slim: float) -> str:
    return f"{slim / dense - 1:+.1%}"


def _shares(dense: Estimate | None, slim: Estimate | None) -> tuple[str, str, str]:
    if dense is None or slim is None:
        return "", "", ""
    return _interval(dense), _interval(slim), f"{(slim.value - dense.value) * 100:+.1f} points"


def _interval(share: Estimate) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]".replace("[", r"\[")


def _majorities(dense: Metrics, slim: Metrics) -> tuple[str, str, str]:
    values = [f"{metrics.majority:.3f}" if metrics.majority is not None else "" for metrics in (dense, slim)]
    return values[0], values[1], ""
