"""What past runs say of the next one's time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.api.openapi.response_examples import REPORT
from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.request.job_request import JobRequest
from service.planning.time_estimate import DURATIONS, MAX_RUNS, Durations, Run, Work, estimate, planned_work, work_of
from service.sources.access import Access
from service.storage.keys import dataset_key
from service.storage.object_store import Storage

WORK = Work("llama", 1000, 80, 20, 1, "attribution", "none")
PACE = {Stage.fetch: 1.0, Stage.evaluate_dense: 2.0, Stage.attribute: 8.0, Stage.evaluate_slim: 2.0}


def run(work: Work = WORK, **seconds: float) -> Run:
    return Run(work, {stage.value: value for stage, value in PACE.items()} | seconds)


def changed(**fields: Any) -> Work:
    return Work(**{**vars(WORK), **fields})


def test_the_same_work_takes_what_it_took() -> None:
    found = estimate([run()], WORK)
    assert found is not None
    assert (found.seconds, found.runs) == (13.0, 1)


@given(
    parameters=st.integers(1, 10**9),
    calibration=st.integers(1, 10**5),
    rows=st.integers(1, 10**5),
    steps=st.integers(1, 9),
)
def test_passes_grow_with_rows_parameters_and_steps(parameters: int, calibration: int, rows: int, steps: int) -> None:
    work = changed(parameters=parameters, calibration_rows=calibration, evaluation_rows=rows, steps=steps)
    found = estimate([run()], work)
    assert found is not None
    scale = parameters / 1000
    expected = scale * (1 + 4 * rows / 20 + 8 * steps * calibration / 80)
    assert found.seconds == pytest.approx(expected, abs=0.051)


def test_one_odd_run_does_not_matter() -> None:
    found = estimate([run(), run(attribute=800.0), run()], WORK)
    assert found is not None
    assert found.seconds == 13.0


def test_runs_of_the_family_and_the_criterion_come_first() -> None:
    slow = run(changed(family="t5"), attribute=80.0)
    gisp = run(changed(criterion="gisp"), attribute=40.0)
    assert [found and found.seconds for found in (estimate([slow, run()], WORK), estimate([slow], WORK))] == [13, 85]
    asked = estimate([gisp, run()], changed(criterion="gisp"))
    assert asked is not None
    assert asked.seconds == 45.0


def test_what_no_run_has_shown_is_not_guessed() -> None:
    assert estimate([], WORK) is None
    assert estimate([run()], changed(repair="bias")) is None
    reused = Run(WORK, {Stage.fetch.value: 1.0, Stage.evaluate_slim.value: 2.0})
    assert estimate([reused], WORK) is None
    cached = estimate([reused], WORK, [Stage.attribute, Stage.evaluate_dense])
    assert cached is not None
    assert cached.seconds == 3.0


@pytest.mark.parametrize(("repair", "passes"), [("least_squares", 1), ("least_squares_layerwise", 1 + 7)])
def test_a_search_goes_by_the_rows_that_it_passes(repair: str, passes: int) -> None:
    work = changed(repair=repair, search="keep_metric", models=7)
    found = estimate([run(work, search=30.0)], replace(work, calibration_rows=160))
    assert found is not None
    assert found.seconds == pytest.approx(5 + 2 * 8 + 30 * (160 * passes + 7 * 20) / (80 * passes + 7 * 20), abs=0.051)


def test_a_search_takes_the_place_of_what_it_does_itself() -> None:
    counted = run(changed(repair="bias"), select=1.0, repair=4.0, slice=1.0)
    searched = run(changed(repair="bias", search="keep_metric", models=7), search=30.0)
    both = [counted, searched]
    found = [
        estimate(both, changed(repair="bias", search=search, models=models))
        for search, models in (("", 0), ("keep_metric", 7))
    ]
    assert [entry and entry.seconds for entry in found] == [19.0, 43.0]
    assert estimate([counted], changed(search="keep_metric", models=7)) is None


def test_a_sweep_takes_longer_the_more_models_it_measures() -> None:
    swept = run(changed(search="sweep", models=32), search=72.0)  # a pass of 80 calibration rows, 32 of 20
    small = estimate([swept], changed(search="sweep", models=2))
    assert small is not None
    assert small.seconds == 13.0 + 72.0 * (80 + 2 * 20) / (80 + 32 * 20)


def test_a_search_has_the_pace_of_the_same_target() -> None:
    timed, judged = (
        run(changed(search=search, models=7), search=seconds)
        for search, seconds in (("latency_ms", 10.0), ("keep_metric", 90.0))
    )
    found = estimate([timed, judged], changed(search="keep_metric", models=7))
    assert found is not None
    assert found.seconds == 103.0


def test_a_recovery_takes_what_its_passes_take_and_at_most_its_time() -> None:
    asked = {"recovery_epochs": 4, "recovery_seconds": 300.0}
    trained = run(changed(**asked), recover=98.0)  # 3 x 4 passes of 80 calibration rows and one of 20 evaluation rows
    found = [
        estimate([trained], changed(**fields))
        for fields in ({}, asked, asked | {"recovery_epochs": 8}, asked | {"recovery_seconds": 50.0})
    ]
    assert [entry and entry.seconds for entry in found] == [13.0, 111.0, 207.0, 63.0]


def test_a_recovery_that_no_run_had_counts_as_its_longest_time() -> None:
    found = estimate([run()], changed(recovery_epochs=4, recovery_seconds=300.0))
    assert found is not None
    assert found.seconds == 313.0


def test_a_search_that_recovers_takes_longer() -> None:
    searched = run(changed(search="keep_metric", models=7), search=80.0 + 7 * 20.0)
    found = estimate([searched], changed(search="keep_metric", models=7, recovery_epochs=1, recovery_seconds=10.0))
    assert found is not None
    assert found.seconds == 13.0 + 80 + 7 * (20 + 3 * 80) + 10


def test_controls_count_only_where_they_are_asked_for() -> None:
    controlled = run(changed(controls=True), controls=50.0)
    found = [estimate([controlled], changed(controls=controls)) for controls in (False, True)]
    assert [entry and entry.seconds for entry in found] == [13.0, 63.0]
    assert estimate([run()], changed(controls=True)) is None


def test_a_search_counts_the_rows_that_steered_it_as_its_plan_does(storage: Storage, body: dict[str, Any]) -> None:
    share = {"value": 0.9, "low": 0.9, "high": 0.9}
    kept = {"metric": "accuracy", "floor": 0.9, "seed": 0, "steering": share, "reported": share}
    report = Report.model_validate(REPORT)
    dumped = report.result.model_dump() | {"kept_metric": kept | {"steering_examples": 12, "reported_examples": 51}}
    asked = {"evaluation": {"uri": "s3://far/rows.jsonl", "limit": 102}, "target": {"keep_metric": 0.9}}
    task = body["task"] | {"evaluation": asked["evaluation"]}
    request = JobRequest.model_validate(body | {"task": task, "target": asked["target"]})
    past = work_of(Report.model_validate(report.model_dump() | {"result": dumped, "request": request.model_dump()}))
    planned = planned_work(request, "llama", past.parameters, Access(storage, "default", True, ()))
    assert planned is not None
    assert past.evaluation_rows == planned.evaluation_rows == 102
    assert past.amount(Stage.evaluate_slim) == past.parameters * 51


def test_runs_of_another_version_are_read_as_far_as_they_go(redis: Redis) -> None:
    old = {"work": {name: vars(WORK)[name] for name in list(vars(WORK))[:7]} | {"searches": True}, "seconds": {}}
    redis.lpush(DURATIONS, json.dumps(old))
    assert Durations(redis).runs() == [Run(WORK, {})]


def test_runs_are_remembered_without_what_they_reused(redis: Redis) -> None:
    method = {"method": {"criterion": "attribution", "repair": "none"}}
    durations, report = Durations(redis), Report.model_validate(REPORT | {"request": REPORT["request"] | method})
    durations.record(report)
    durations.record(report.model_copy(update={"result": report.result.model_copy(update={"scores_reused": True})}))
    newest, oldest = durations.runs()
    assert (newest.seconds, oldest.seconds) == ({}, {"attribute": 21.4})
    assert oldest.work == Work("llama", 134515008, 205, 51, 1, "attribution", "none")
    for _ in range(MAX_RUNS):
        durations.record(report)
    assert len(durations.runs()) == MAX_RUNS


def test_rows_are_counted_where_that_is_quick(storage: Storage, tmp_path: Path, body: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 9 + '{"a": 1}')
    storage.put_bytes(b"{}\n" * 7, dataset_key("default", "rows"))
    access = Access(storage, "default", True, ())

    def counted(calibration: dict[str, Any], evaluation: dict[str, Any] | None) -> tuple[int, int] | None:
        task = body["task"] | {"calibration": calibration, "evaluation": evaluation}
        work = planned_work(JobRequest.model_validate(body | {"task": task}), "llama", 1000, access)
        return (work.calibration_rows, work.evaluation_rows) if work else None

    file, dataset = {"uri": (tmp_path / "rows.jsonl").as_uri()}, {"uri": "dataset://rows"}
    far = {"uri": "s3://bucket/rows.jsonl"}
    assert counted(file, dataset) == (10, 7)
    assert counted(file, None) == (8, 2)
    assert counted(file | {"limit": 4}, far | {"limit": 3}) == (4, 3)
    assert counted({"rows": body["task"]["calibration"]["rows"]}, dataset | {"limit": 100}) == (4, 7)
    assert counted(far, dataset) is None
    assert counted(file, {"uri": "dataset://none"}) is None
