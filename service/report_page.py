"""A report as one HTML page that needs nothing else: no script, no network, styles inside, drawings as SVG.

The page forbids itself everything but its own style by a Content-Security-Policy with the style's hash, so that a
report from a stranger can be opened without a thought.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from service.schemas import Confusion, LayerWidth, Report

DIRECTORY = Path(__file__).parent / "pages"
LAYERS_PER_ROW = 32
SCALES = ((1e9, "B", "GB"), (1e6, "M", "MB"), (1e3, "k", "kB"))


@dataclass(frozen=True)
class HeatRow:
    """One line of the heat map: a share for each layer, None where it is not known."""

    name: str
    what: str
    cells: list[tuple[int, float | None]]


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
            heat=list(heat_rows(report.layers)),
            seconds=sum(timing.seconds for timing in report.timings),
            request=json.dumps(_without_defaults(report), indent=2, ensure_ascii=False),
        )
    )


def style_source() -> str:
    """The page's style as a source of a Content-Security-Policy."""
    digest = hashlib.sha256(_style().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def heat_rows(layers: list[LayerWidth]) -> Iterator[HeatRow]:
    """Kept share of the units, and of their scores, for every stack and part; long stacks on several rows."""
    for (stack, part), group in groupby(sorted(layers, key=_place), key=lambda layer: (layer.stack, layer.part)):
        found = list(group)
        for start in range(0, len(found), LAYERS_PER_ROW):
            line = found[start : start + LAYERS_PER_ROW]
            yield HeatRow(f"{stack} {part}", "units", [(layer.layer, layer.slim / layer.dense) for layer in line])
            if any(layer.score_kept is not None for layer in line):
                yield HeatRow(f"{stack} {part}", "score", [(layer.layer, layer.score_kept) for layer in line])


def recall(confusion: Confusion, index: int, which: str) -> float | None:
    """Share of a label's rows that a model answers rightly; None for a label without rows."""
    row: list[int] = getattr(confusion, which)[index]
    return row[index] / sum(row) if sum(row) else None


def _place(layer: LayerWidth) -> tuple[str, str, int]:
    return layer.stack, layer.part, layer.layer


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
    environment.globals["recall"] = recall
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


def change(pair: tuple[float, float]) -> str:
    """(4, 3) -> −25.0 %"""
    before, now = pair
    if before == 0:
        return ""
    share = now / before - 1
    return f"{'−' if share < 0 else '+'}{percent(abs(share))}"


def points(pair: tuple[float, float]) -> str:
    """(0.90, 0.88) -> −2.0 points"""
    difference = (pair[1] - pair[0]) * 100
    return f"{'−' if difference < 0 else '+'}{abs(difference):.1f} points"


FILTERS: dict[str, Callable[..., str]] = {
    "percent": percent,
    "count": count,
    "size": size,
    "change": change,
    "points": points,
    "plain": lambda name: name.replace("_", " "),
}
