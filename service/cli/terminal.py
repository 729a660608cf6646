"""What the command line prints: the progress of a job, a table of its result, and JSON."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from service.cli.client import Api
from service.contract.answers.catalog import Plan
from service.contract.answers.comparison import Comparison, Figures, Size
from service.contract.answers.job import Job, JobStatus
from service.contract.answers.result import Estimate, JobMetrics, Result
from service.contract.errors import TaskslimError
from service.reports.formatting import change, count, duration, milliseconds, percent, points, size, span
from service.reports.metric_names import qualities, share_of_most_frequent
from service.storage.artifact_names import MODEL

MAX_WIDTH = 10_000  # columns of a table that nothing is cut from


class JobFailed(TaskslimError):
    """A job that the command waited for failed or was cancelled."""


def follow(server: Api, job: Job, console: Console) -> Job:
    """Show a progress bar until the job ends, and return the ended job."""
    bar = Progress(
        BarColumn(bar_width=32), TaskProgressColumn(), TextColumn("{task.description}", markup=False), console=console
    )
    with bar:
        line = bar.add_task(describe(job), total=1.0)
        for now in server.watch(job):
            bar.update(line, description=describe(now), completed=now.progress.fraction)
            job = now
    return job


def result_of(job: Job) -> Result:
    """The result of an ended job. Raises JobFailed unless it succeeded."""
    if job.result is None or job.status is not JobStatus.succeeded:
        reason = f": {job.error.message} ({job.error.code})" if job.error else ""
        raise JobFailed(f"the job {job.status}{reason}")
    return job.result


def describe(job: Job) -> str:
    """The stage, the count within the stage and the time left, each where it is known; of an ended job its status."""
    if job.status.is_terminal:
        return job.status
    progress = job.progress
    done = f"{progress.done}/{progress.total} {progress.unit or ''}" if progress.total else ""
    left = f"{duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{job.stage or job.status:<15}{done:<20}{left}"


def plan_line(plan: Plan) -> str:
    """The sizes of both models and the time, each where the plan knows it."""
    dense, slim = plan.parameters.dense, plan.parameters.slim
    if slim is None:
        sizes = [f"{count(dense)} parameters before; the size after is known when models were measured"]
    else:
        sizes = [f"{count(dense)} → {count(slim)} parameters ({change((dense, slim))})"]
    sizes += [f"{width.stack} {width.unit} {count(width.dense)} → {count(width.slim)}" for width in plan.widths]
    time = [f"about {duration(plan.time.seconds)}"] if plan.time else []
    return f"plan: {', '.join(sizes + time)}"


def result_table(result: Result) -> Table:
    """The figures of the dense and the slim model, and their change."""
    units = ", ".join(sorted({entry.unit for entry in result.widths}))
    table = Table(title=f"{percent(result.ratio)} of the parameters of {units} removed", title_justify="left")
    for header in ("", "dense", "slim", "change"):
        table.add_column(header, justify="left" if header == "" else "right", no_wrap=True)
    parameters, weights, latency = result.parameters, result.bytes, result.latency_ms
    table.add_row(
        "parameters", count(parameters.dense), count(parameters.slim), change((parameters.dense, parameters.slim))
    )
    table.add_row("bytes", size(weights.dense), size(weights.slim), change((weights.dense, weights.slim)))
    for name, dense, slim in _qualities(result.metrics):
        table.add_row(name, percent(dense.value), percent(slim.value), points((dense.value, slim.value)))
        table.add_row("  95 % interval", span(dense), span(slim), "", style="dim")
    table.add_row(
        "latency", milliseconds(latency.dense), milliseconds(latency.slim), change((latency.dense, latency.slim))
    )
    table.caption, table.caption_justify = _conditions(result), "left"
    return table


def _qualities(metrics: JobMetrics) -> Iterator[tuple[str, Estimate, Estimate]]:
    """(name, dense, slim) of the metric, with and without label offsets."""
    for (name, dense), (_, slim) in zip(qualities(metrics.dense), qualities(metrics.slim), strict=True):
        yield name, dense, slim


def _conditions(result: Result) -> str:
    """The rows and the input that the figures were measured on."""
    metrics, latency = result.metrics.dense, result.latency_ms
    majority = "" if metrics.majority is None else f", {percent(metrics.majority)} {share_of_most_frequent(metrics)}"
    return (
        f"{metrics.examples} evaluation rows{majority}; latency: median forward pass of "
        f"{latency.batch} x {latency.tokens} tokens, {latency.device}"
    )


def comparison_table(found: Comparison) -> Table:
    """The compared models, the dense one first. A figure with a star is on the frontier of the metric."""
    table = Table(title=f"{found.task}: {found.dense.examples} evaluation rows", title_justify="left", box=None)
    for header in ("job", "removed", *(each.replace("_ms", "") for each in Size), found.metric or "metric", "95 %"):
        table.add_column(header, justify="left" if header == "job" else "right", no_wrap=True)
    table.add_row("dense", "", *_compared(found.dense))
    for model in found.models:
        name = model.job_id if model.artifact == MODEL else f"{model.job_id} {model.artifact or 'not stored'}"
        table.add_row(name, percent(model.ratio), *_compared(model))
    return table


def _compared(figures: Figures) -> Iterator[str]:
    """The sizes, with a star where the model is on their frontier, and the metric."""
    latency = figures.latency_ms
    shown = {
        Size.parameters: count(figures.parameters),
        Size.bytes: size(figures.bytes),
        Size.latency_ms: "" if latency is None else milliseconds(latency),
    }
    yield from (f"{text}{'*' if name in figures.frontier else ' '}" for name, text in shown.items())
    yield from (percent(figures.metric.value), span(figures.metric))


def print_whole(console: Console, table: Table) -> None:
    """Print a table with all of its text, also where the terminal is narrower or the output is a file."""
    wide = console.options.update(width=MAX_WIDTH)
    width = max(console.width, Measurement.get(console, wide, table).maximum)
    Console(file=console.file, width=width).print(table)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
