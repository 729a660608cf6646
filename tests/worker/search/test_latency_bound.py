"""Targets with a bound on the latency."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from service.contract.errors import TargetUnreachable
from tests.support.searches import KEEPING, search_job
from worker.checkpoints.loading import count_parameters


def test_latency_bound_above_every_model_removes_the_least(tmp_path: Path) -> None:
    job = search_job(tmp_path, num_rows=4, target={"latency_ms": 1e6}, output={"round_to": 1})
    chosen = job.search()
    assert chosen.candidate.requested_ratio == job.candidates().grid()[0]
    assert all(point.meets and point.latency_ms for point in chosen.curve)


def test_latency_bound_below_every_model_fails_with_the_curve(tmp_path: Path) -> None:
    target = {"latency_ms": {"value": 1e-6, "batch": 2, "tokens": 8}}
    with pytest.raises(TargetUnreachable, match="the fastest model") as failed:
        search_job(tmp_path, num_rows=4, target=target).search()
    assert failed.value.curve
    assert not any(point.meets for point in failed.value.curve)


def timing_by_size(seen: list[tuple[int, int]]) -> Callable[..., float]:
    """A latency of one millisecond for each thousand parameters."""

    def measure(
        model: PreTrainedModel, examples: object, padding: object, rows: int, tokens: int, on_pass: object
    ) -> float:
        seen.append((rows, tokens))
        return count_parameters(model) / 1000

    return measure


def test_latency_bound_chooses_the_largest_model_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = search_job(tmp_path / "dense", num_rows=4, output={"round_to": 1})
    sizes = {dense.candidates().at(ratio).parameters for ratio in dense.candidates().grid()}
    bound = {"value": (min(sizes) + max(sizes)) / 2000, "batch": 3, "tokens": 8}
    job, seen = (
        search_job(tmp_path / "job", num_rows=4, target={"latency_ms": bound}, output={"round_to": 1}),
        list[tuple[int, int]](),
    )
    monkeypatch.setattr("worker.search.latency_bound.measure_latency", timing_by_size(seen))
    chosen = job.search()
    assert chosen.candidate.parameters == max(size for size in sizes if size / 1000 <= bound["value"])
    assert {point.meets for point in chosen.curve} == {True, False}
    assert set(seen) == {(3, 8)}


def test_latency_bound_and_floor_both_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = search_job(tmp_path / "alone", **KEEPING).search().candidate
    target = {"keep_metric": 0.9, "latency_ms": (alone.parameters + 300) / 1000}
    job = search_job(tmp_path / "both", target=target, output={"round_to": 1})
    monkeypatch.setattr("worker.search.latency_bound.measure_latency", timing_by_size([]))
    chosen = job.search()
    assert chosen.steering is not None
    assert chosen.steering.holds
    assert chosen.candidate.parameters <= alone.parameters + 300
    assert chosen.candidate.parameters == min(point.parameters for point in chosen.curve if point.share and point.meets)
    assert any(point.latency_ms and point.metric for point in chosen.curve)
    assert any(point.latency_ms and not point.metric for point in chosen.curve)
