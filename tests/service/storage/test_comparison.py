"""The comparison of jobs by their reports."""

from typing import Any

import pytest

from service.contract.answers.comparison import Size
from service.contract.answers.report import Report
from service.contract.answers.result import CurvePoint, Estimate
from service.contract.errors import NotComparable
from service.contract.request.job_request import JobRequest
from service.jobs.record import new_record
from service.storage.comparison import compare
from tests.support.compared_jobs import DIGESTS, compared_report
from tests.support.contract_examples import REQUEST


def made(parameters: int, value: float, request: JobRequest = REQUEST, **more: Any) -> Report:
    return compared_report(new_record(request), parameters, value, **more)


def test_frontier_has_the_models_that_no_other_beats() -> None:
    """The dense model has 10 parameters and the metric 0.5."""
    found = compare([made(7, 0.45), made(5, 0.48), made(5, 0.4), made(3, 0.3), made(3, 0.3), made(9, 0.55)])
    marked = [Size.parameters in model.frontier for model in found.models]
    assert marked == [False, True, False, True, True, True]
    assert Size.parameters not in found.dense.frontier
    assert [(model.parameters, model.bytes, model.latency_ms) for model in found.models][1] == (5, 10, 1)
    assert all(set(model.frontier) in ({*Size}, set()) for model in found.models)


def test_latencies_on_different_inputs_have_no_frontier() -> None:
    first, other = made(7, 0.45), made(5, 0.4)
    latency = other.result.latency_ms.model_copy(update={"tokens": 128})
    other = other.model_copy(update={"result": other.result.model_copy(update={"latency_ms": latency})})
    found = compare([first, other])
    assert found.latency is None
    assert [model.frontier for model in found.models] == [["parameters", "bytes"]] * 2


def test_latency_of_the_dense_model_is_the_median_over_the_jobs() -> None:
    reports = [made(7, 0.45), made(6, 0.45), made(5, 0.4)]
    changed = [
        report.model_copy(
            update={
                "result": report.result.model_copy(
                    update={"latency_ms": report.result.latency_ms.model_copy(update={"dense": dense})}
                )
            }
        )
        for report, dense in zip(reports, (9.0, 4.0, 5.0), strict=True)
    ]
    assert compare(changed).dense.latency_ms == 5


def test_sweep_has_all_of_its_models() -> None:
    swept = JobRequest.model_validate(REQUEST.model_dump() | {"target": {"sweep": [0.3, 0.5, 0.7]}})
    report = made(3, 0.3, swept)
    figure = Estimate(value=0.4, low=0.3, high=0.5)
    points = [
        CurvePoint(ratio=0.3, parameters=7, bytes=14, examples=20, metric=figure, artifact="model-0.3"),
        CurvePoint(ratio=0.5, parameters=5, bytes=10, examples=20, metric=figure),
        CurvePoint(ratio=0.7, parameters=3, bytes=6, examples=20, metric=figure, artifact="model"),
    ]
    report = report.model_copy(update={"result": report.result.model_copy(update={"curve": points})})
    found = compare([report])
    assert [(model.parameters, model.artifact) for model in found.models] == [
        (3, "model"),
        (7, "model-0.3"),
        (5, None),
    ]
    assert [Size.parameters in model.frontier for model in found.models] == [True, False, True]
    assert found.models[1].latency_ms is None
    assert Size.latency_ms not in found.models[1].frontier


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"digests": DIGESTS | {"model": "d" * 64}}, "different models"),
        ({"digests": DIGESTS | {"adapter": "d" * 64}}, "different adapters"),
        ({"digests": DIGESTS | {"evaluation": "d" * 64}}, "task.evaluation"),
        ({"digests": {"model": DIGESTS["model"]}}, "does not name its model and rows"),
        ({"task": {"kind": "classification", "template": "Review: {text}"}}, "different tasks or metrics"),
    ],
)
def test_jobs_of_different_models_tasks_or_rows_are_refused(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotComparable, match=reason) as refused:
        compare([made(7, 0.45), made(5, 0.4, **more)])
    assert refused.value.param == "jobs"


def test_jobs_with_other_calibration_rows_are_comparable() -> None:
    found = compare([made(7, 0.45), made(5, 0.4, digests=DIGESTS | {"calibration": "d" * 64})])
    assert len(found.models) == 2
