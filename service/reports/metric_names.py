"""The names of the metrics, which differ for rows without labels: these are judged by the dense model's answers.

The names start with a lower-case letter.
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
    "exact_match": "texts equal to the dense model's",
    "token_probability": "probability of a token of the dense model's text",
}
NAMES = {Supervision.labels: LABELLED, Supervision.none: UNLABELLED}
SHARES = ("accuracy", "calibrated_accuracy", "exact_match")  # fields of `Metrics` that are shares of rows


def name_of(metrics: Metrics, field: str) -> str:
    """The name of a field of `metrics`."""
    return NAMES[metrics.judged_by][field]


def qualities(metrics: Metrics) -> Iterator[tuple[str, str, Estimate]]:
    """(field, name, value) of each share in `metrics`."""
    found = ((field, getattr(metrics, field)) for field in SHARES)
    return ((field, name_of(metrics, field), value) for field, value in found if value is not None)


def headline_name(metrics: Metrics) -> str:
    """The name of the headline metric; empty without one."""
    return next((name for _, name, value in qualities(metrics) if value is metrics.headline), "")


def searched_name(report: Report) -> str:
    """The name of the metric of the report's curve."""
    generates = report.task.get("kind") == TaskKind.generation
    return name_of(report.result.metrics.slim, "token_probability" if generates else "calibrated_accuracy")
