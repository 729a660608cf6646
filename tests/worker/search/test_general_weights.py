"""Jobs that compare general weights: each point is the model of a job with that weight alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.answers.report import Report
from service.contract.answers.result import Result
from service.contract.errors import InvalidRequest
from service.planning.plan import plan
from service.reports.html import render
from service.sources.access import Access
from tests.support.pipeline_jobs import WORDS, Deployment, write_rows
from worker.slimming.scoring import attribution

TARGET: dict[str, Any] = {"ratio": 0.5, "general_weights": [0, 0.9]}


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    torch.set_num_threads(1)
    return Deployment(tmp_path)


def run(deployment: Deployment, target: dict[str, Any], method: dict[str, Any]) -> Result:
    texts = [{"text": " ".join(WORDS[row * step % 7] for step in range(1, 4))} for row in range(20)]
    general = {"uri": write_rows(deployment.root / "general.jsonl", texts)}
    request = deployment.request(task={"general": general}, target=target, method=method)
    access = Access(deployment.storage, "default", local_paths=True)
    planned = plan(request, access)
    result = deployment.run(request)
    assert planned.exact
    assert planned.parameters.slim == result.parameters.slim
    return result


METHODS: dict[str, dict[str, Any]] = {
    "surgeon": {},
    "attribution": {"criterion": "attribution", "repair": "least_squares"},
    "shared and exclusive units": {"general_rule": "shared_exclusive"},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_point_is_the_model_of_a_job_with_its_weight(deployment: Deployment, name: str) -> None:
    method = METHODS[name]
    compared = run(deployment, TARGET, method | {"general_weight": 0.5})
    report = Report.model_validate_json((deployment.scratch / "output/report.json").read_bytes())
    page = render(report)
    assert [point.general_weight for point in compared.curve] == [0.0, 0.5, 0.9]
    assert len({point.parameters for point in compared.curve}) == 1
    for point in compared.curve:
        rule = {} if point.general_weight else {"general_rule": "mixture"}
        alone = run(deployment, {"ratio": 0.5}, method | rule | {"general_weight": point.general_weight})
        assert alone.metrics.general is not None
        assert point.metric is not None
        assert point.general is not None
        assert point.metric.value == pytest.approx(alone.metrics.slim.value.value, abs=1e-6)
        assert point.general.value == pytest.approx(alone.metrics.general.slim.value.value, rel=1e-4)
    assert compared.curve[1].metric is not None
    assert compared.metrics.slim.value.value == compared.curve[1].metric.value
    assert "General rows and the task" in page
    assert "general weight 0.9:" in page


def test_one_pass_over_each_kind_of_rows_serves_all_weights(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    score = attribution.score

    def counted(*arguments: Any, **options: Any) -> Any:
        passes.append(arguments[4])
        return score(*arguments, **options)

    monkeypatch.setattr(attribution, "score", counted)
    run(deployment, {"ratio": 0.5, "general_weights": [0, 0.1, 0.5, 0.9]}, {})
    proportions = [criterion for criterion in passes if criterion == "second_moment"]
    assert (len(passes), len(proportions)) == (4, 2)  # a pass over each kind, and one over a part of it for its scale


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"target": {"keep_metric": 0.9, "general_weights": [0.5]}}, "give `ratio`"),
    "no general rows": ({"target": TARGET}, "give `task.general`"),
    "a weight above 1": ({"target": {"ratio": 0.5, "general_weights": [1.5]}}, "less than or equal to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_targets_are_refused(deployment: Deployment, case: str) -> None:
    fields, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        deployment.request(**fields)


def test_a_criterion_without_mixtures_is_refused(deployment: Deployment) -> None:
    task = {"general": {"uri": deployment.rows(10, "general"), "template": "{text}"}}
    request = deployment.request(task=task, target=TARGET, method={"criterion": "wanda", "repair": "none"})
    with pytest.raises(InvalidRequest, match="`general_weights` have an effect only") as refused:
        plan(request, Access(deployment.storage, "default", local_paths=True))
    assert refused.value.param == "target.general_weights"
