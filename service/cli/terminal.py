"""What a terminal shows of a job: the bar while it runs, and the table at its end."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from service.contract.job import Job
from service.contract.result import DenseSlim, Estimate, JobMetrics, Result
from service.reports.metric_names import qualities


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
    units = ", ".join(sorted({entry.unit for entry in result.widths}))
    table = Table(title=f"{result.ratio:.1%} of the {units} units' parameters removed", title_justify="left")
    for header in ("", "dense", "slim", "change"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    table.add_row("parameters", *_counts(result.parameters, 1e6, "M"))
    table.add_row("bytes", *_counts(result.bytes, 1e6, "MB"))
    for name, dense, slim in _qualities(result.metrics):
        table.add_row(
            name, f"{dense.value:.3f}", f"{slim.value:.3f}", f"{(slim.value - dense.value) * 100:+.1f} points"
        )
        table.add_row("  95 % interval", _interval(dense), _interval(slim), "", style="dim")
    latency = result.latency_ms
    table.add_row("latency", f"{latency.dense:.1f} ms", f"{latency.slim:.1f} ms", _change(latency.dense, latency.slim))
    table.caption, table.caption_justify = _conditions(result), "left"
    return table


def _counts(pair: DenseSlim, scale: float, unit: str) -> tuple[str, str, str]:
    return (
        f"{pair.dense / scale:.1f} {unit}",
        f"{pair.slim / scale:.1f} {unit}",
        _change(pair.dense, pair.slim),
    )


def _change(dense: float, slim: float) -> str:
    return f"{slim / dense - 1:+.1%}"


def _qualities(metrics: JobMetrics) -> Iterator[tuple[str, Estimate, Estimate]]:
    """Name, dense and slim value of the shares that the task's kind has."""
    for (_, name, dense), (_, _, slim) in zip(qualities(metrics.dense), qualities(metrics.slim), strict=True):
        yield name, dense, slim


def _interval(share: Estimate) -> str:
    return f"{share.low:.3f} to {share.high:.3f}"


def _conditions(result: Result) -> str:
    """What the figures were measured on."""
    metrics, latency = result.metrics.dense, result.latency_ms
    majority = f", {metrics.majority:.3f} of them of one label" if metrics.majority is not None else ""
    return (
        f"{metrics.examples} evaluation rows{majority}; latency: median forward pass of "
        f"{latency.batch} x {latency.tokens} tokens, {latency.device}"
    )
