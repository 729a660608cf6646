"""Reports of a finished job, without running one."""

from typing import Any

from service.contract.answers.job import Stage
from service.contract.answers.report import (
    ChangedAnswer,
    Confusion,
    LayerWidth,
    Report,
    ReportWarning,
    StageTiming,
    Throughput,
)
from service.contract.options import Unit
from tests.support.contract_examples import result
from tests.support.requests import plain_request


def layers(number: int) -> list[LayerWidth]:
    """So many layers, each with a smaller width than the one before."""
    return [
        LayerWidth(stack="decoder", layer=layer, unit=Unit.ffn, part="ffn", dense=100, slim=70 - layer, score_kept=0.9)
        for layer in range(number)
    ]


def report(**fields: Any) -> Report:
    """A report with `fields` in place of its own."""
    fixed: dict[str, Any] = {
        "job_id": "01KB3ZJ5T8Q6W2E4R9Y7N1M0PX",
        "attempt": 2,
        "request": plain_request(tags={"team": "search"}),
        "task": {"template": "Review: {text}", "labels": {"pos": "good"}, "kind": "classification"},
        "family": "llama",
        "result": result(),
        "options": {"criterion": "attribution"},
        "calibration_examples": 123,
        "shortened_prompts": 4,
        "timings": [StageTiming(stage=Stage.attribute, seconds=12.5)],
        "versions": {"torch": "2.13.0"},
        "digests": {"model": "ab" * 32},
        "snippet": "model = load()",
        "warnings": [ReportWarning(code="at_majority", message="No better than the most frequent label.")],
        "throughput": [Throughput(batch=8, tokens=64, dense=20, slim=30)],
        "layers": layers(3),
        "confusion": Confusion(labels=["bad", "good"], dense=[[8, 2], [1, 9]], slim=[[7, 3], [0, 0]]),
        "num_changed": 1,
        "changed": [ChangedAnswer(line=7, fields={"text": "so so"}, right="bad", dense="bad", slim="good")],
    }
    return Report(**fixed | fields)
