"""Targets with a floor under the metric: the search, its steering rows and its errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.answers.job import Stage
from service.contract.answers.report import Report
from service.contract.errors import TargetUnreachable
from tests.support.searches import KEEPING, run_job, save_nothing, search_job
from worker.data.sampling import stratified_order
from worker.evaluation.answers import Answers
from worker.search import search_context
from worker.search.candidates import Candidates
from worker.search.chosen import SPLIT_SEED
from worker.search.search import search
from worker.search.search_context import SearchContext
from worker.stages.task_model import TaskModel, answer_rows

# A metric that falls steadily with the size, also of a random model.
LIKELY = {"kind": "generation", "labels": None, "metric": "token_probability"}


@pytest.mark.parametrize("method", [{}, {"repair": "least_squares", "scope": "global"}], ids=["plain", "repaired"])
def test_search_finds_the_smallest_candidate_that_holds_the_floor(method: dict[str, Any], tmp_path: Path) -> None:
    job = search_job(tmp_path, method=method, **KEEPING)
    chosen = job.search()
    smaller = [point for point in chosen.curve if point.ratio > chosen.candidate.ratio]
    assert chosen.steering is not None
    assert chosen.steering.holds
    assert [point.meets for point in smaller] == [False] * len(smaller)
    assert all(point.meets for point in chosen.curve if point.ratio <= chosen.candidate.ratio)
    assert len(chosen.curve) <= 7
    # Between the model found and the smallest that failed before it lies none that was not looked at.
    candidates = Candidates(job.context, job.task_model, job.path)
    between = {candidates.at(ratio).parameters for ratio in candidates.grid()}
    next_one = max((size for size in between if size < chosen.candidate.parameters), default=None)
    assert next_one is None or next_one in {point.parameters for point in smaller}


def test_early_verdicts_agree_with_all_steering_rows(tmp_path: Path) -> None:
    job = search_job(tmp_path, **KEEPING)
    chosen = job.search()
    steering = sorted(set(range(80)) - set(chosen.rows))
    running = SearchContext.begin(job.context, job.task_model, job.dense, job.path)
    test = running.test_on(steering)
    for point in chosen.curve:
        candidate = next(
            running.candidates.at(ratio)
            for ratio in running.candidates.grid()
            if running.candidates.at(ratio).parameters == point.parameters
        )
        share = test.measure(running.answers_of(running.slim_copy(candidate).judged, test)).kept.share
        assert (share.low >= 0.9) is point.meets


def test_reported_rows_are_not_steering_rows(tmp_path: Path) -> None:
    job = search_job(tmp_path, **KEEPING)
    chosen = job.search()
    order = stratified_order([example.answer for example in job.task_model.evaluation.examples], SPLIT_SEED)
    assert set(order[:40]).isdisjoint(chosen.rows)
    assert len(chosen.rows) == chosen.dense.metrics.examples == len(chosen.task_model.evaluation.examples) == 40
    assert all(point.examples is not None and point.examples <= 40 for point in chosen.curve)


def test_unreachable_floor_fails_with_the_curve(tmp_path: Path) -> None:
    job = search_job(tmp_path, num_rows=20, target={"keep_metric": 1.0}, output={"round_to": 1})
    with pytest.raises(TargetUnreachable, match="more evaluation rows") as failed:
        job.search()
    assert failed.value.param == "target.keep_metric"
    assert failed.value.curve
    assert not any(point.meets for point in failed.value.curve)


def test_floor_and_bound_that_exclude_each_other_name_the_smallest_model(tmp_path: Path) -> None:
    fixed: dict[str, Any] = {"method": {"criterion": "attribution", "repair": "none"}, "output": {"round_to": 1}}
    alone = search_job(tmp_path / "alone", task=dict(LIKELY), target={"keep_metric": 0.995}, **fixed).search()
    bound = alone.candidate.parameters - 100
    target = {"keep_metric": 0.995, "parameters": bound}
    job = search_job(tmp_path / "both", task=dict(LIKELY), target=target, **fixed)
    with pytest.raises(TargetUnreachable, match="the smallest that was has") as failed:
        job.search()
    [first] = [point for point in failed.value.curve if point.parameters <= bound and not point.meets][:1]
    assert first.share is not None


def test_floor_and_bound_choose_the_smallest_model(tmp_path: Path) -> None:
    bare = {"special_tokens": False}
    alone = search_job(tmp_path / "alone", task=dict(bare), **KEEPING).search().candidate
    target = {"keep_metric": 0.9, "bytes": alone.bytes + 4000}
    both = search_job(tmp_path / "both", task=dict(bare), target=target, output={"round_to": 1}).search()
    assert both.steering is not None
    assert both.steering.holds
    assert both.candidate.bytes == min(point.bytes for point in both.curve if point.meets) < target["bytes"]


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_bound_above_the_whole_model_is_ignored_beside_a_floor(name: str, tmp_path: Path) -> None:
    alone = search_job(tmp_path / "alone", **KEEPING).search()
    target = {"keep_metric": 0.9, name: 10**9}
    both = search_job(tmp_path / "both", target=target, output={"round_to": 1}).search()
    assert (both.candidate.parameters, both.curve) == (alone.candidate.parameters, alone.curve)


def test_floor_of_a_generation_task_is_a_token_probability(tmp_path: Path) -> None:
    chosen = search_job(tmp_path, task=dict(LIKELY), num_rows=12, target={"keep_metric": 0.5}).search()
    assert chosen.steering is not None
    assert chosen.steering.found.kept.metric.value <= 1
    assert len(chosen.dense.given) == 6


@pytest.mark.parametrize(("floor", "holds"), [(0.05, True), (1.5, False)], ids=["far below", "far above"])
def test_clear_verdict_needs_a_part_of_the_rows(tmp_path: Path, floor: float, holds: bool) -> None:
    job = search_job(tmp_path, num_rows=80, task=dict(LIKELY))
    running = SearchContext.begin(job.context, job.task_model, job.dense, job.path)
    test = running.test_on(list(range(80)))
    answer = running.answers_of(running.slim_copy(running.candidates.at(0.8)).judged, test)
    verdict = test.verdict(answer, floor)
    assert verdict.holds is holds
    assert verdict.examples == 20
    close = test.verdict(answer, test.measure(answer).kept.share.low)
    assert (close.examples, close.holds) == (80, True)


def test_search_ends_where_progress_raises(tmp_path: Path) -> None:
    job = search_job(tmp_path, **KEEPING)
    path = job.path
    job.progress.end_in = Stage.search
    with pytest.raises(InterruptedError):
        search(job.context, job.task_model, job.dense, path, save_nothing)


def test_job_with_a_floor_reports_on_the_other_half_of_the_rows(tmp_path: Path) -> None:
    result, directory = run_job(tmp_path, **KEEPING)
    kept = result.kept_metric
    assert kept is not None
    assert (kept.metric, kept.floor, kept.reported_examples) == ("accuracy", 0.9, 40)
    assert kept.steering.low >= 0.9
    assert result.metrics.dense.examples == result.metrics.slim.examples == 40
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert {runtime.name for runtime in report.runtimes if runtime.loads} >= {"transformers", "vllm", "llama.cpp"}
    assert all(entry.dense_ms and entry.slim_ms for entry in report.throughput)
    assert report.confusion is not None
    assert sum(map(sum, report.confusion.slim)) == 40
    assert [timing.stage for timing in report.timings][4:6] == [Stage.search, Stage.evaluate_slim]


def test_candidates_are_the_same_whichever_were_cut_before(tmp_path: Path) -> None:
    """Their repairs share what the dense model writes."""
    job = search_job(tmp_path, **KEEPING)
    running, alone = (Candidates(job.context, job.task_model, job.path) for _ in range(2))
    for ratio in (0.3, 0.6):
        running.slim_copy(running.at(ratio))
    found, expected = (each.slim_copy(each.at(0.45)).loaded.model.state_dict() for each in (running, alone))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("family", "fields", "passes"),
    [
        ("llama", {}, 0),
        ("bert", {}, 0),
        ("t5", {}, 1),  # of two stacks, of which the second reads the first
        ("llama", {"method": {"repair": "least_squares"}}, 1),  # computes no states behind the last layer
        ("llama", {"output": {"round_to": 1, "quantise": ["int8"]}}, 1),  # the model that is judged is another one
    ],
    ids=["decoder", "encoder", "two stacks", "no states", "quantised"],
)
def test_label_offsets_take_no_pass_where_the_repair_knows_the_states(
    family: str, fields: dict[str, Any], passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, asked = search_job(tmp_path, family, **KEEPING | fields), list[TaskModel]()
    running = SearchContext.begin(job.context, job.task_model, job.dense, job.path)

    def recorded(context: object, task_model: TaskModel, *args: Any, **kwargs: Any) -> Answers:
        asked.append(task_model)
        return answer_rows(job.context, task_model, *args, **kwargs)

    monkeypatch.setattr(search_context, "answer_rows", recorded)
    slim = running.slim_copy(running.candidates.at(0.5))
    assert len(asked) == passes
    expected = running.with_offsets(replace(slim.judged, offset_L=None)).offset_L
    assert slim.judged.offset_L is not None
    assert expected is not None
    assert slim.judged.offset_L.abs().max() > 1e-3
    torch.testing.assert_close(slim.judged.offset_L, expected, rtol=1e-3, atol=1e-4)
