"""A report as one HTML page that needs nothing else: no script, no network, styles inside, drawings as SVG.

The page forbids itself everything but its own style by a Content-Security-Policy with the style's hash, so that a
report from a stranger can be opened without a thought.
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

from service.contract.method import Target
from service.contract.options import Supervision
from service.contract.per_layer import has_own_widths
from service.contract.report import Confusion, Report
from service.contract.result import Control, MetricsPair
from service.reports.charts import across, curve, heat_maps, intervals
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
from service.reports.metric_names import NAMES, headline_name, searched_name
from service.reports.model_origin import base_name, merged_adapters

DIRECTORY = Path(__file__).parent
CHANGED_SHOWN = 10  # changed answers; the rest is folded away
RUNTIMES = {"transformers": "Transformers", "vllm": "vLLM", "sglang": "SGLang"}  # as they write themselves


def render(report: Report) -> str:
    """The page. Texts from the request and the rows are escaped."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            result=report.result,
            dense=report.result.metrics.dense,
            slim=report.result.metrics.slim,
            style=Markup(_style()),
            policy=f"default-src 'none'; style-src {style_source()}",
            heat=list(heat_maps(report.layers)),
            intervals=intervals([("dense", report.result.metrics.dense), ("slim", report.result.metrics.slim)]),
            curve=curve(report),
            base=base_name(report),
            adapters=[uri.rstrip("/").rsplit("/", 1)[-1] for uri in merged_adapters(report)],
            root=report.lineage[0] if report.lineage else report.request.model,
            target=asked(report.request.target),
            runtimes=RUNTIMES,
            searched=searched_name(report),
            names=NAMES[report.result.metrics.slim.judged_by],
            unlabelled=report.result.metrics.slim.judged_by is Supervision.none,
            others=list(_others(report)),
            controls=list(_controls(report)),
            own_widths=has_own_widths(report.result),
            shown=CHANGED_SHOWN,
            seconds=sum(timing.seconds for timing in report.timings),
            request=json.dumps(_without_defaults(report), indent=2, ensure_ascii=False),
        )
    )


def asked(target: Target) -> str:
    """What a target asks for, in words."""
    if target.ratio is not None:
        return f"{percent(target.ratio)} removed"
    if target.sweep is not None:
        return f"models with {', '.join(percent(ratio) for ratio in sorted(target.sweep))} removed"
    words = {
        "parameters": target.parameters and f"at most {target.parameters:,} parameters",
        "bytes": target.bytes and f"weights of at most {size(target.bytes)}",
        "latency_ms": target.latency_ms
        and f"at most {target.latency_ms.value:g} ms for {target.latency_ms.batch} × {target.latency_ms.tokens} tokens",
        "keep_metric": target.keep_metric
        and f"the smallest model that keeps {percent(target.keep_metric)} of the dense model’s metric",
    }
    return ", and ".join(text for text in words.values() if text)


def _others(report: Report) -> Iterator[tuple[str, str, dict[str, MetricsPair]]]:
    """(heading, what it says, figures by name) of what was measured beside the job's own evaluation rows."""
    metrics = report.result.metrics
    if metrics.tasks:
        yield (
            "Task by task",
            "All of these share the model; the figures above are over all of their rows.",
            metrics.tasks,
        )
    if metrics.evaluations:
        yield "On other rows", "The same task on rows of another origin.", metrics.evaluations
    if metrics.observed:
        yield "What was given up", "Tasks that the model was not slimmed for.", metrics.observed


def _controls(report: Report) -> Iterator[tuple[str, Control]]:
    """Each control under its name."""
    controls = report.result.metrics.controls
    if controls is None:
        return
    for seed, control in enumerate(controls.random):
        yield f"Random units, seed {seed}", control
    yield "Reversed choice", controls.reverse
    if controls.per_layer is not None:
        yield "Each layer with its own width", controls.per_layer


def style_source() -> str:
    """The page's style as a source of a Content-Security-Policy."""
    digest = hashlib.sha256(_style().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def recall(confusion: Confusion, index: int, which: str) -> float | None:
    """Share of a label's rows that a model answers rightly; None for a label without rows."""
    row: list[int] = getattr(confusion, which)[index]
    return row[index] / sum(row) if sum(row) else None


def _without_defaults(report: Report) -> dict[str, Any]:
    return report.request.model_dump(mode="json", exclude_defaults=True)


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


# --- figures as people read them -----------------------------------------------------------------------------------


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
    "likely": math.exp,
    "signed": signed,
    "span": span,
    "plain": lambda name: name.replace("_", " "),
    "headline_name": headline_name,
}
