"""What the figures of a model are called: rows without labels are judged by the dense model, not by what is right.

The names begin in lower case, for tables and sentences alike.
"""

from collections.abc import Iterator

from service.contract.options import Supervision, TaskKind
from service.contract.report import Report
from service.contract.result import Estimate, Metrics

LABELLED = {
    "accuracy": "accuracy",
    "calibrated_accuracy": "calibrated accuracy",
    "exact_match": "exact match",
    "token_probability": "probability of a target's token",
}
UNLABELLED = {
    "accuracy": "agreement with the dense model",
    "calibrated_accuracy": "calibrated agreement with the dense model",
    "exact_match": "texts that are the dense model's",
    "token_probability": "probability of a token of the dense model's text",
}
NAMES = {Supervision.labels: LABELLED, Supervision.none: UNLABELLED}
SHARES = ("accuracy", "calibrated_accuracy", "exact_match")  # fields of `Metrics` that are shares of rows


def name_of(metrics: Metrics, figure: str) -> str:
    """What one of its figures is called."""
    return NAMES[metrics.judged_by][figure]


def qualities(metrics: Metrics) -> Iterator[tuple[str, str, Estimate]]:
    """(field, name, value) of the shares that there are."""
    found = ((field, getattr(metrics, field)) for field in SHARES)
    return ((field, name_of(metrics, field), value) for field, value in found if value is not None)


def headline_name(metrics: Metrics) -> str:
    """What its headline is called; empty where it has none."""
    return next((name for _, name, value in qualities(metrics) if value is metrics.headline), "")


def searched_name(report: Report) -> str:
    """What the metric of the report's curve is called."""
    generates = report.task.get("kind") == TaskKind.generation
    return name_of(report.result.metrics.slim, "token_probability" if generates else "calibrated_accuracy")
