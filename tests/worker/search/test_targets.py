"""Targets on tiny models: counted candidates, searches for a floor or a latency, and sweeps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from service.contract import presets
from service.contract.errors import InvalidRequest, TargetUnreachable
from service.contract.families import FAMILIES
from service.contract.job import Stage
from service.contract.report import Report
from service.contract.result import Result
from service.jobs.record import new_record
from service.settings import Settings
from tests.worker.test_pipeline import Deployment, Recorder
from worker.checkpoints import loading
from worker.checkpoints.validation import weight_bytes
from worker.evaluation.sequential_test import stratified_order
from worker.search.candidates import Candidates
from worker.search.chosen import SPLIT_SEED, ChosenModel
from worker.search.counted import largest_within
from worker.search.search import search
from worker.search.search_context import SearchContext
from worker.slimming.scoring.iterative import ScorePath, schedule
from worker.stages import evaluation_sets, inputs
from worker.stages.attribution import attribute, highest_ratio
from worker.stages.context import JobContext
from worker.stages.slim import locate_groups
from worker.stages.task_model import Measured, TaskModel, evaluate, load

KEEPING: dict[str, Any] = {"target": {"keep_metric": 0.9}, "output": {"round_to": 1}}


@dataclass(frozen=True)
class Prepared:
    """A job before the search for its target."""

    context: JobContext
    task_model: TaskModel
    dense: Measured
    progress: Recorder

    @property
    def path(self) -> ScorePath:
        """The unit scores of the job."""
        request = self.context.job.request
        ratios = schedule(highest_ratio(request.target), request.method.steps)
        return attribute(self.context, self.task_model, ratios)

    def candidates(self, seed: int = 0) -> Candidates:
        """The candidates along a path of random scores."""
        generator = torch.Generator().manual_seed(seed)
        groups = locate_groups(self.context, self.task_model)
        scores = {group.site: torch.rand(group.count, generator=generator) for group in groups}
        return Candidates(self.context, self.task_model, ScorePath((0.0,), (scores,)))

    def search(self) -> ChosenModel:
        """The model that the search chooses."""
        return search(self.context, self.task_model, self.dense, self.path, store_nothing)


def store_nothing(*_: object) -> None:
    """The `store` of a search that is not a sweep, and does not call it."""


def prepared(root: Path, family: str = "llama", num_rows: int = 80, **fields: Any) -> Prepared:
    torch.set_num_threads(1)
    root.mkdir(exist_ok=True)
    deployment, progress = Deployment(root), Recorder()
    classes = {"labels": {"0": "LABEL_0", "1": "LABEL_2"}}
    task = classes if family in FAMILIES and FAMILIES[family].kind == "classifier" else {}
    task = task | fields.pop("task", {}) | {"evaluation": {"uri": deployment.rows(num_rows, "evaluation")}}
    job = new_record(deployment.request(family, task, **fields))
    scratch = deployment.root / "scratch" / job.id
    scratch.mkdir(parents=True)
    resolved = presets.resolve(job.request.slimmed_for[0])
    here = Settings(state=root, device="cpu", tokens_per_batch=512)
    context = JobContext(job, resolved, here, deployment.storage, progress, scratch)
    progress.stage(Stage.search)
    sources = inputs.fetch(context)
    loaded = load(context, sources.model, sources.adapter)
    task_model = evaluation_sets.own(evaluation_sets.build(context, loaded, sources.rows)).task_model
    return Prepared(context, task_model, evaluate(context, task_model), progress)


# --- counting ------------------------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "llama": {"method": {"units": ["ffn", "heads", "layers"], "scope": "global"}},
    "gpt2": {"method": {"repair": "bias"}},
    "opt": {"method": {"scope": "global"}, "output": {"layout": "per_layer", "round_to": 1}},
    "phi3": {"method": {"units": ["ffn", "heads"]}},
    "t5": {"method": {"units": ["ffn", "heads", "head_dims"], "scope": "global"}},
    "t5_gated": {"method": {"units": ["ffn", "heads", "layers"], "scope": "global"}},
    "bart": {"method": {"repair": "bias"}},
    "bert": {},
}


@pytest.mark.parametrize("family", METHODS)
def test_counted_candidate_has_the_size_of_the_cut_model(family: str, tmp_path: Path) -> None:
    job = prepared(tmp_path, family, num_rows=4, **METHODS[family])
    dense = loading.count_parameters(job.task_model.loaded.model)
    candidates = job.candidates()
    for ratio in (0.3, 0.5):
        candidate = candidates.at(ratio)
        slim = candidates.cut(candidate)
        loading.save(slim.loaded, tmp_path / f"slim-{ratio}")
        assert candidate.parameters == loading.count_parameters(slim.loaded.model) < dense
        assert candidate.bytes == weight_bytes(tmp_path / f"slim-{ratio}")
    assert loading.count_parameters(job.task_model.loaded.model) == dense


def test_biases_of_a_repair_are_counted(tmp_path: Path) -> None:
    job = prepared(tmp_path, num_rows=4, method={"repair": "bias"})
    candidates = job.candidates()
    candidate = candidates.at(0.5)
    assert candidate.parameters == loading.count_parameters(candidates.cut(candidate).loaded.model)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    method = {"scope": "global", "units": ["ffn", "heads"]}
    return prepared(tmp_path_factory.mktemp("job"), num_rows=4, method=method, output={"round_to": 1})


@settings(max_examples=30)
@given(ratios=st.lists(st.floats(0.001, 0.9), min_size=2, max_size=6, unique=True).map(sorted), seed=st.integers(0, 99))
def test_candidates_shrink_as_the_ratio_grows(counted: Prepared, ratios: list[float], seed: int) -> None:
    candidates = counted.candidates(seed)
    found = [candidates.at(min(ratio, candidates.highest_ratio)) for ratio in ratios]
    for name in ("ratio", "parameters", "bytes"):
        values = [getattr(candidate, name) for candidate in found]
        assert values == sorted(values, reverse=name != "ratio")


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_largest_candidate_within_a_number_is_found_by_counting(name: str, tmp_path: Path) -> None:
    root, output = tmp_path / "whole", {"round_to": 1}
    everything = prepared(root, num_rows=4, output=output).candidates()
    sizes = sorted({int(getattr(everything.at(step / 200), name)) for step in range(180)})
    for number in (sizes[3], sizes[-2], sizes[-2] + 1, sizes[-1] - 1):
        job = prepared(tmp_path / str(number), num_rows=4, target={name: number}, output=output)
        found = getattr(largest_within(job.candidates(), job.context.job.request.target), name)
        assert found == max(size for size in sizes if size <= number)


def test_number_above_the_size_of_the_model_is_refused(tmp_path: Path) -> None:
    job = prepared(tmp_path, num_rows=4, target={"parameters": 10**9})
    with pytest.raises(InvalidRequest, match="as it is") as refused:
        largest_within(job.candidates(), job.context.job.request.target)
    assert refused.value.param == "target.parameters"


def test_number_below_the_smallest_candidate_is_unreachable(tmp_path: Path) -> None:
    job = prepared(tmp_path, num_rows=4, target={"bytes": 100})
    with pytest.raises(TargetUnreachable, match="the smallest model") as failed:
        largest_within(job.candidates(), job.context.job.request.target)
    assert failed.value.param == "target.bytes"


# --- a floor under the metric --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [{}, {"repair": "least_squares", "scope": "global"}], ids=["plain", "repaired"])
def test_search_finds_the_smallest_candidate_that_holds_the_floor(method: dict[str, Any], tmp_path: Path) -> None:
    job = prepared(tmp_path, method=method, **KEEPING)
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
    job = prepared(tmp_path, **KEEPING)
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
        share = test.measure(running.candidates.cut(candidate).loaded.model, lambda: None).share
        assert (share.low >= 0.9) is point.meets


def test_reported_rows_are_not_steering_rows(tmp_path: Path) -> None:
    job = prepared(tmp_path, **KEEPING)
    chosen = job.search()
    order = stratified_order([example.answer for example in job.task_model.evaluation.examples], SPLIT_SEED)
    assert set(order[:40]).isdisjoint(chosen.rows)
    assert len(chosen.rows) == chosen.dense.metrics.examples == len(chosen.task_model.evaluation.examples) == 40
    assert all(point.examples is not None and point.examples <= 40 for point in chosen.curve)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=60), st.integers(0, 2**20))
def test_both_halves_have_the_labels_in_proportion(labels: list[str], seed: int) -> None:
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    first = [labels[row] for row in order[: len(order) // 2]]
    for label in set(labels):
        assert abs(first.count(label) - labels.count(label) / 2) <= len(set(labels))
    assert order == stratified_order(labels, seed)


def test_unreachable_floor_fails_with_the_curve(tmp_path: Path) -> None:
    job = prepared(tmp_path, num_rows=20, target={"keep_metric": 1.0}, output={"round_to": 1})
    with pytest.raises(TargetUnreachable, match="more evaluation rows") as failed:
        job.search()
    assert failed.value.param == "target.keep_metric"
    assert failed.value.curve
    assert not any(point.meets for point in failed.value.curve)


def test_floor_and_bound_that_exclude_each_other_name_the_smallest_model(tmp_path: Path) -> None:
    plain = {"criterion": "attribution", "repair": "none"}
    smallest = prepared(tmp_path / "alone", method=plain, **KEEPING).search().candidate
    bound = smallest.parameters - 600
    target = {"keep_metric": 0.9, "parameters": bound}
    job = prepared(tmp_path / "both", method=plain, target=target, output={"round_to": 1})
    with pytest.raises(TargetUnreachable, match="the smallest that was has") as failed:
        job.search()
    [first] = [point for point in failed.value.curve if point.parameters <= bound and not point.meets][:1]
    assert first.share is not None


def test_floor_and_bound_choose_the_smallest_model(tmp_path: Path) -> None:
    alone = prepared(tmp_path / "alone", **KEEPING).search().candidate
    bound = alone.bytes + 4000
    both = prepared(tmp_path / "both", target={"keep_metric": 0.9, "bytes": bound}, output={"round_to": 1}).search()
    assert both.steering is not None
    assert both.steering.holds
    assert both.candidate.bytes == min(point.bytes for point in both.curve if point.meets) < bound


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_bound_above_the_whole_model_is_ignored_beside_a_floor(name: str, tmp_path: Path) -> None:
    alone = prepared(tmp_path / "alone", **KEEPING).search()
    target = {"keep_metric": 0.9, name: 10**9}
    both = prepared(tmp_path / "both", target=target, output={"round_to": 1}).search()
    assert (both.candidate.parameters, both.curve) == (alone.candidate.parameters, alone.curve)


def test_floor_of_a_generation_task_is_a_token_probability(tmp_path: Path) -> None:
    task = {"kind": "generation", "labels": None}
    chosen = prepared(tmp_path, task=task, num_rows=12, target={"keep_metric": 0.5}).search()
    assert chosen.steering is not None
    assert chosen.steering.retention.metric.value <= 1
    assert len(chosen.dense.answers) == 6


@pytest.mark.parametrize(("floor", "holds"), [(0.05, True), (1.5, False)], ids=["far below", "far above"])
def test_clear_verdict_needs_a_part_of_the_rows(tmp_path: Path, floor: float, holds: bool) -> None:
    job = prepared(tmp_path, num_rows=80, task={"kind": "generation", "labels": None})
    running = SearchContext.begin(job.context, job.task_model, job.dense, job.path)
    slim = running.candidates.cut(running.candidates.at(0.8)).loaded.model
    test = running.test_on(list(range(80)))
    verdict = test.verdict(slim, floor, lambda: None)
    assert verdict.holds is holds
    assert verdict.examples == 20
    close = test.verdict(slim, test.measure(slim, lambda: None).share.low, lambda: None)
    assert (close.examples, close.holds) == (80, True)


def test_search_ends_where_progress_raises(tmp_path: Path) -> None:
    job = prepared(tmp_path, **KEEPING)
    path = job.path
    job.progress.end_in = Stage.search
    with pytest.raises(InterruptedError):
        search(job.context, job.task_model, job.dense, path, store_nothing)


# --- latency -------------------------------------------------------------------------------------------------------


def test_latency_bound_above_every_model_removes_the_least(tmp_path: Path) -> None:
    job = prepared(tmp_path, num_rows=4, target={"latency_ms": 1e6}, output={"round_to": 1})
    chosen = job.search()
    assert chosen.candidate.requested_ratio == 0.01
    assert all(point.meets and point.latency_ms for point in chosen.curve)


def test_latency_bound_below_every_model_fails_with_the_curve(tmp_path: Path) -> None:
    target = {"latency_ms": {"value": 1e-6, "batch": 2, "tokens": 8}}
    with pytest.raises(TargetUnreachable, match="the fastest model") as failed:
        prepared(tmp_path, num_rows=4, target=target).search()
    assert failed.value.curve
    assert not any(point.meets for point in failed.value.curve)


def timing_by_size(seen: list[tuple[int, int]]) -> Callable[..., float]:
    """A latency of one millisecond for each thousand parameters."""

    def measure(
        model: PreTrainedModel, examples: object, padding: object, rows: int, tokens: int, on_pass: object
    ) -> float:
        seen.append((rows, tokens))
        return loading.count_parameters(model) / 1000

    return measure


def test_latency_bound_chooses_the_largest_model_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = prepared(tmp_path / "dense", num_rows=4, output={"round_to": 1})
    sizes = {dense.candidates().at(ratio).parameters for ratio in dense.candidates().grid()}
    bound = {"value": (min(sizes) + max(sizes)) / 2000, "batch": 3, "tokens": 8}
    job, seen = (
        prepared(tmp_path / "job", num_rows=4, target={"latency_ms": bound}, output={"round_to": 1}),
        list[tuple[int, int]](),
    )
    monkeypatch.setattr("worker.search.latency_bound.measure_latency", timing_by_size(seen))
    chosen = job.search()
    assert chosen.candidate.parameters == max(size for size in sizes if size / 1000 <= bound["value"])
    assert {point.meets for point in chosen.curve} == {True, False}
    assert set(seen) == {(3, 8)}


def test_latency_bound_and_floor_both_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = prepared(tmp_path / "alone", **KEEPING).search().candidate
    target = {"keep_metric": 0.9, "latency_ms": (alone.parameters + 300) / 1000}
    job = prepared(tmp_path / "both", target=target, output={"round_to": 1})
    monkeypatch.setattr("worker.search.latency_bound.measure_latency", timing_by_size([]))
    chosen = job.search()
    assert chosen.steering is not None
    assert chosen.steering.holds
    assert chosen.candidate.parameters <= alone.parameters + 300
    assert chosen.candidate.parameters == min(point.parameters for point in chosen.curve if point.share and point.meets)
    assert any(point.latency_ms and point.metric for point in chosen.curve)
    assert any(point.latency_ms and not point.metric for point in chosen.curve)


def test_latency_bound_with_too_many_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="64 tokens at most"):
        prepared(tmp_path, num_rows=4, target={"latency_ms": {"value": 1, "tokens": 65}}).search()


# --- whole jobs ----------------------------------------------------------------------------------------------------


def run(root: Path, progress: Recorder | None = None, **fields: Any) -> tuple[Result, Path]:
    torch.set_num_threads(1)
    deployment = Deployment(root)
    task = {"evaluation": {"uri": deployment.rows(80, "evaluation")}}
    result = deployment.run(deployment.request(task=task, **fields), progress)
    deployment.download(root / "downloaded")
    return result, root / "downloaded"


@pytest.mark.parametrize("repair", ["least_squares", "least_squares_layerwise"])
def test_sweep_stores_the_curve_and_the_requested_checkpoints(tmp_path: Path, repair: str) -> None:
    target = {"sweep": [0.5, 0.2, 0.35], "artifacts": [0.2, 0.35]}
    progress = Recorder()
    result, directory = run(tmp_path, progress, target=target, method={"repair": repair})
    counted = [(done, total, unit) for stage, done, total, unit in progress.advances if stage is Stage.search]
    assert {unit for _, _, unit in counted} == {"models"}
    assert (counted[0], counted[-1]) == ((0, 3, "models"), (3, 3, "models"))
    assert [point.artifact for point in result.curve] == ["model-0.2", "model", None]
    assert [point.examples for point in result.curve] == [80] * 3
    assert result.ratio == result.curve[1].ratio
    assert result.metrics.slim.calibrated_accuracy is not None
    metric = result.curve[1].metric
    assert metric is not None
    assert metric.value == pytest.approx(result.metrics.slim.calibrated_accuracy.value)
    for point in result.curve[:2]:
        model = AutoModelForCausalLM.from_pretrained(directory / str(point.artifact))
        assert model.num_parameters() == point.parameters
        assert (directory / f"{point.artifact}/model.safetensors").stat().st_size == point.bytes
        assert (directory / f"{str(point.artifact).replace('model', 'kept')}.safetensors").exists()
        assert f'from_pretrained("{point.artifact}")' in (directory / f"{point.artifact}/README.md").read_text()


def test_ratios_that_round_to_one_width_are_all_on_the_curve(tmp_path: Path) -> None:
    target = {"sweep": [0.30, 0.31, 0.5], "artifacts": [0.30, 0.31]}
    result, directory = run(tmp_path, target=target, output={"round_to": 8})
    assert [point.artifact for point in result.curve] == ["model-0.3", "model", None]
    first, second, _ = result.curve
    assert first.model_copy(update={"artifact": None}) == second.model_copy(update={"artifact": None})
    assert (directory / "model-0.3/model.safetensors").stat().st_size == first.bytes


def test_job_with_a_floor_reports_on_the_other_half_of_the_rows(tmp_path: Path) -> None:
    result, directory = run(tmp_path, **KEEPING)
    kept = result.kept_metric
    assert kept is not None
    assert (kept.metric, kept.floor, kept.reported_examples) == ("calibrated_accuracy", 0.9, 40)
    assert kept.steering.low >= 0.9
    assert result.metrics.dense.examples == result.metrics.slim.examples == 40
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert {runtime.name for runtime in report.runtimes if runtime.loads} >= {"transformers", "vllm", "llama.cpp"}
    assert all(entry.dense_ms and entry.slim_ms for entry in report.throughput)
    assert report.confusion is not None
    assert sum(map(sum, report.confusion.slim)) == 40
    assert [timing.stage for timing in report.timings][4:6] == [Stage.search, Stage.evaluate_slim]
