"""Controls: models cut by random, reversed and per-layer selections."""

from typing import Any

import pytest
import torch

from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.answers.result import Control
from tests.support.pipeline_jobs import Deployment, Recorder
from worker.slimming.selection import best
from worker.slimming.units.groups import Site
from worker.stages.evaluation.controls import means, reversed_scores

TASK: dict[str, Any] = {"template": "{text}:"}


def controls_of(deployment: Deployment, **method: Any) -> dict[str, Control]:
    """The controls of a job, by name."""
    result = deployment.run(deployment.request(method={"controls": True} | method))
    found = result.metrics.controls
    assert found is not None
    named = {f"random {seed}": control for seed, control in enumerate(found.random)} | {"reverse": found.reverse}
    return named | ({"per_layer": found.per_layer} if found.per_layer else {})


def test_controls_leave_the_result_of_the_job_unchanged(deployment: Deployment) -> None:
    progress = Recorder()
    plain = deployment.run(deployment.request(method={"repair": "none"}))
    asked = deployment.run(deployment.request(method={"controls": True, "repair": "none"}), progress)
    found = asked.metrics.controls
    assert found is not None
    each = [*found.random, found.reverse, found.per_layer]
    assert len(each) == 5
    assert all(control is not None and control.metrics.examples == 6 for control in each)
    assert all(control.ratio == asked.ratio for control in [*found.random, found.reverse])
    assert found.random_mean == means([control.metrics for control in found.random])
    assert plain.metrics == asked.metrics.model_copy(update={"controls": None})
    counted = [(done, total, unit) for stage, done, total, unit in progress.advances if stage is Stage.controls]
    assert [counted[0], counted[-1]] == [(0, 5, "controls"), (4, 5, "controls")]
    directory = deployment.root / "downloaded"
    deployment.download(directory)
    assert Report.model_validate_json((directory / "report.json").read_bytes()).result == asked
    assert "Reversed choice" in (directory / "report.html").read_text()


@pytest.mark.parametrize(
    ("criterion", "control", "shared"),
    [
        ("reverse", "reverse", {}),
        ("random", "random 0", {"seed": 7}),
        ("random", "random 0", {"seed": 7, "units": ["ffn", "heads"], "scope": "global"}),
    ],
    ids=["reverse", "random", "random over two kinds of units"],
)
def test_control_has_the_metrics_of_a_job_with_its_criterion(
    deployment: Deployment, criterion: str, control: str, shared: dict[str, Any]
) -> None:
    shared |= {"repair": "least_squares"}
    controls = controls_of(deployment, criterion="attribution", **shared)
    alone = deployment.run(deployment.request(method={"criterion": criterion} | shared))
    assert controls[control].metrics == alone.metrics.slim


def test_controls_end_where_progress_raises(deployment: Deployment) -> None:
    with pytest.raises(InterruptedError):
        deployment.run(deployment.request(method={"controls": True}), Recorder(end_in=Stage.controls))


def test_reversed_scores_rank_removed_units_highest() -> None:
    scores = {Site("decoder", 0, "ffn"): torch.tensor([3.0, -torch.inf, 1.0, 2.0])}
    reverse = reversed_scores(scores)[Site("decoder", 0, "ffn")]
    assert best(reverse, 2).tolist() == [1, 2]
    assert reverse.isfinite().all()
