"""A report as one HTML page without scripts and without references to other files; charts are inline SVG.

A Content-Security-Policy in the page allows its own style alone, so that a page from an untrusted source is harmless.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from service.contract.answers.report import Confusion, Report
from service.contract.answers.result import Control, Estimate, MetricsPair
from service.contract.options import Supervision, TaskMetric
from service.contract.request.target import Target
from service.models.families.per_layer import has_own_widths
from service.reports.charts import across, curve, heat_maps, intervals, loss_curve
from service.reports.formatting import (
    change,
    count,
    decimal,
    duration,
    interval,
    milliseconds,
    percent,
    points,
    signed,
    size,
    span,
)
from service.reports.metric_names import capitalised, metric_name, name_of, qualities
from service.reports.model_origin import last_part, merged_adapters, root
from service.reports.runtime_names import RUNTIME_NAMES, RUNTIME_OF

DIRECTORY = Path(__file__).parent
CHANGED_SHOWN = 10  # changed answers; the others are in a closed <details>


def render(report: Report) -> str:
    """The page. Texts from the request and the rows are escaped."""
    context = _header(report) | _metrics(report) | _charts(report) | _details(report)
    return _environment().get_template("report.html").render(report=report, result=report.result, **context)


def _header(report: Report) -> dict[str, Any]:
    """The policy, the style, and what the first lines name: the model, its adapters and the target."""
    return {
        "style": Markup(_style()),
        "policy": f"default-src 'none'; style-src {style_source()}",
        "base": last_part(root(report).uri),
        "revision": root(report).revision,
        "adapters": [last_part(uri) for uri in merged_adapters(report)],
        "target": target_text(report.request.target),
    }


def _metrics(report: Report) -> dict[str, Any]:
    """The metrics of both models, with their names."""
    metrics = report.result.metrics
    return {
        "dense": metrics.dense,
        "slim": metrics.slim,
        "likely": name_of(metrics.slim, TaskMetric.token_probability),
        "qualities": list(zip(qualities(metrics.dense), qualities(metrics.slim), strict=True)),
        "unlabelled": metrics.slim.judged_by is Supervision.none,
        "trained": list(_trained_qualities(report)),
        "others": list(_other_evaluations(report)),
        "controls": list(_controls(report)),
    }


def _charts(report: Report) -> dict[str, Any]:
    metrics, recovery = report.result.metrics, report.result.recovery
    models = [("dense", metrics.dense), ("slim", metrics.slim)]
    if recovery is not None:
        models.insert(1, ("slim, before the training", recovery.metrics.slim))
    return {
        "heat": list(heat_maps(report.layers)),
        "intervals": intervals(models),
        "losses": loss_curve(recovery),
        "curve": curve(report),
    }


def _details(report: Report) -> dict[str, Any]:
    """What the sections on the checkpoint, the request and the run show."""
    return {
        "runtimes": RUNTIME_NAMES,
        "formats": RUNTIME_OF,
        "own_widths": has_own_widths(report.result),
        "shown": CHANGED_SHOWN,
        "seconds": sum(timing.seconds for timing in report.timings),
        "request": json.dumps(
            report.request.model_dump(mode="json", exclude_defaults=True), indent=2, ensure_ascii=False
        ),
    }


def target_text(target: Target) -> str:
    """The target in words, such as `30.0 % removed`."""
    if target.ratio is not None:
        compared = ", ".join(f"{weight:g}" for weight in sorted(target.general_weights or ()))
        return f"{percent(target.ratio)} removed" + (
            f", with general rows at the shares {compared}" if compared else ""
        )
    if target.sweep is not None:
        return f"models with {', '.join(percent(ratio) for ratio in sorted(target.sweep))} removed"
    bound = target.latency_ms
    texts = (
        target.parameters and f"at most {target.parameters:,} parameters",
        target.bytes and f"weights of at most {size(target.bytes)}",
        bound and f"at most {bound.value:g} ms for {bound.batch} × {bound.tokens} tokens",
        target.keep_metric
        and f"the smallest model that keeps {percent(target.keep_metric)} of the dense model’s metric",
    )
    return ", and ".join(text for text in texts if text)


def _trained_qualities(report: Report) -> Iterator[tuple[str, list[Estimate]]]:
    """(name, the estimates of the dense model, of the slim one before its training and of the trained one)."""
    recovery = report.result.recovery
    if recovery is None:
        return
    found = recovery.metrics
    rows = (qualities(each) for each in (found.dense, found.slim, found.recovered))
    for (name, dense), (_, slim), (_, recovered) in zip(*rows, strict=True):
        yield name, [dense, slim, recovered]


def _other_evaluations(report: Report) -> Iterator[tuple[str, str, dict[str, MetricsPair]]]:
    """(heading, note, metrics by name) of each kind of evaluation besides that of the task."""
    metrics = report.result.metrics
    if metrics.tasks:
        yield (
            "Task by task",
            "The model was slimmed for all of these; the metrics above are over all.",
            metrics.tasks,
        )
    if metrics.evaluations:
        yield "Further rows", "The same task on rows of another origin.", metrics.evaluations
    if metrics.general and report.request.general:
        note = "What the model can do besides the task."
        yield "General rows", note, {report.request.general.title: metrics.general}
    if metrics.observed:
        yield "Observed tasks", "Tasks that the model was not slimmed for.", metrics.observed


def _controls(report: Report) -> Iterator[tuple[str, Control]]:
    """(name, control) of each control."""
    controls = report.result.metrics.controls
    if controls is None:
        return
    for seed, control in enumerate(controls.random):
        yield f"Random units, seed {seed}", control
    yield "Reversed choice", controls.reverse
    if controls.per_layer is not None:
        yield "Each layer with its own width", controls.per_layer


def style_source() -> str:
    """The source of the page's style for a Content-Security-Policy: its SHA-256."""
    digest = hashlib.sha256(_style().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def recall(confusion: Confusion, index: int, which: str) -> float | None:
    """The recall of the label at `index` by the model `which` (dense or slim); None for a label without rows."""
    row: list[int] = getattr(confusion, which)[index]
    return row[index] / sum(row) if sum(row) else None


@cache
def _style() -> str:
    return (DIRECTORY / "report.css").read_text()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(DIRECTORY), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= FILTERS
    environment.globals |= {"recall": recall, "across": across}
    return environment


FILTERS: dict[str, Callable[..., object]] = {
    "percent": percent,
    "count": count,
    "size": size,
    "change": change,
    "points": points,
    "decimal": decimal,
    "duration": duration,
    "milliseconds": milliseconds,
    "interval": interval,
    "exp": math.exp,
    "signed": signed,
    "span": span,
    "plain": lambda name: name.replace("_", " "),
    "metric_name": metric_name,
    "capitalised": capitalised,
}
