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

from service.contract.fields import Confusion, Control, Estimate, MetricsPair, Report, Supervision, Target
from service.contract.per_layer import has_own_widths
from service.reports.charts import across, curve, heat_maps, intervals
from service.reports.metric_names import NAMES, headline_name, searched_name

DIRECTORY = Path(__file__).parent
CHANGED_SHOWN = 10  # changed answers; the rest is folded away
RUNTIMES = {"transformers": "Transformers", "vllm": "vLLM", "sglang": "SGLang"}  # as they write themselves
SCALES = ((1e9, "B", "GB"), (1e6, "M", "MB"), (1e3, "k", "kB"))


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


def root_uri(report: Report) -> str:
    """The URI of the model that was first slimmed, by this job or one before it."""
    return (report.lineage[0].model if report.lineage else report.request.model.uri).rstrip("/")


def base_name(report: Report) -> str:
    """The last part of that URI, which is the model's name."""
    return root_uri(report).rsplit("/", 1)[-1]


def merged_adapters(report: Report) -> list[str]:
    """The adapters that went into the model, in their order."""
    uris = [*(ancestor.adapter_uri for ancestor in report.lineage), report.request.model.adapter_uri]
    return [uri for uri in uris if uri]


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


def percent(share: float, digits: int = 1) -> str:
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def count(number: int) -> str:
    """134515008 -> 134.5 M"""
    return next((f"{number / scale:.1f} {unit}" for scale, unit, _ in SCALES if number >= max(scale, 1e4)), f"{number}")


def size(number: int) -> str:
    """269030016 -> 269.0 MB"""
    return next((f"{number / scale:.1f} {unit}" for scale, _, unit in SCALES if number >= scale), f"{number} B")


def span(estimate: Estimate) -> str:
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def interval(estimate: Estimate) -> str:
    """89.2 % (82.3 % to 93.6 %)"""
    return f"{percent(estimate.value)} ({span(estimate)})"


def decimal(number: float) -> str:
    return f"{number:.3f}".replace("-", "−")


def signed(number: float) -> str:
    return f"{number:+.3f}".replace("-", "−")


def change(pair: tuple[float, float]) -> str:
    """(4, 3) -> −25.0 %"""
    before, now = pair
    if before == 0:
        return ""
    share = now / before - 1
    return f"{'−' if share < 0 else '+'}{percent(abs(share))}"


def points(pair: tuple[float, float]) -> str:
    """(0.90, 0.88) -> −2.0 points"""
    difference = round((pair[1] - pair[0]) * 100, 1)
    return f"{'−' if difference < 0 else '+' if difference > 0 else ''}{abs(difference):.1f} points"


FILTERS: dict[str, Callable[..., object]] = {
    "percent": percent,
    "count": count,
    "size": size,
    "change": change,
    "points": points,
    "decimal": decimal,
    "interval": interval,
    "likely": math.exp,
    "signed": signed,
    "span": span,
    "plain": lambda name: name.replace("_", " "),
    "headline_name": headline_name,
}
