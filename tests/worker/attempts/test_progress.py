"""The fraction and the remaining time of a job, with a clock that the test sets."""

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.answers.job import Progress, Stage
from tests.support.requests import plain_request
from worker.attempts.progress import ETA_AFTER_SECONDS, WEIGHTS, WRITE_SECONDS, JobProgress, skipped_stages

STAGES = list(Stage)


class Recorder:
    """Records the written progress, and has a clock."""

    def __init__(self, skipped: Collection[Stage] = ()) -> None:
        self.now = 0.0
        self.writes: list[tuple[Stage, Progress, bool]] = []
        self.progress = JobProgress(self.write, lambda: None, clock=lambda: self.now, skipped=skipped)

    def write(self, stage: Stage, progress: Progress, entered: bool) -> None:
        self.writes.append((stage, progress, entered))


def test_every_stage_has_a_weight() -> None:
    assert set(WEIGHTS) == set(Stage)


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 120), st.floats(0, 5)), min_size=1))
def test_fraction_never_decreases_and_eta_is_never_negative(
    steps: list[tuple[Stage, int, float]],
) -> None:
    recorder = Recorder()
    for stage, done, seconds in steps:
        recorder.progress.stage(stage)
        recorder.now += seconds
        recorder.progress.advance(done, 100, "examples")
    fractions = [progress.fraction for _, progress, _ in recorder.writes]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert all((progress.eta_seconds or 0) >= 0 for _, progress, _ in recorder.writes)


def test_writes_are_limited_except_for_new_stages() -> None:
    recorder = Recorder()
    recorder.progress.stage(Stage.attribute)
    for done in range(10_000):
        recorder.progress.advance(done, 1_000_000, "examples")  # in no time, and less than a hundredth of the job
    assert len(recorder.writes) == 1
    recorder.now += WRITE_SECONDS
    recorder.progress.advance(10_000, 1_000_000, "examples")
    recorder.progress.advance(500_000, 1_000_000, "examples")
    recorder.progress.stage(Stage.select)
    assert [entered for _, _, entered in recorder.writes] == [True, False, False, True]
    assert recorder.writes[1][1].done == 10_000


TARGETS = [{"ratio": 0.3}, {"keep_metric": 0.98}, {"bytes": 1000}, {"sweep": [0.1]}]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_eta_approaches_the_true_time_at_constant_speed(target: dict[str, Any]) -> None:
    skipped = skipped_stages(plain_request(target=target))
    stages = [stage for stage in STAGES if stage not in skipped]
    recorder, whole = Recorder(skipped), sum(WEIGHTS[stage] for stage in stages)
    for stage in stages:
        recorder.progress.stage(stage)
        for done in range(1, 11):
            recorder.now += WEIGHTS[stage] / 10
            recorder.progress.advance(done, 10, "examples")
            left = recorder.writes[-1][1].eta_seconds
            if recorder.now < ETA_AFTER_SECONDS:
                assert left is None
            elif recorder.writes[-1][1].done == done:
                assert left == pytest.approx(whole - recorder.now, abs=0.05 * whole)


def test_progress_raises_the_error_of_check() -> None:
    def check() -> None:
        raise InterruptedError("cancelled")

    progress = JobProgress(lambda stage, progress, entered: None, check)
    with pytest.raises(InterruptedError):
        progress.stage(Stage.fetch)
    with pytest.raises(InterruptedError):
        progress.advance(1, 2, "examples")
