"""Targets that are met by counting: candidates and their sizes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.errors import InvalidRequest, TargetUnreachable
from tests.support.searches import SearchJob, search_job
from worker.checkpoints.loading import count_parameters
from worker.checkpoints.saving import save_model
from worker.search.counted import largest_within
from worker.sources.validation import weight_file_bytes

METHODS: dict[str, dict[str, Any]] = {
    "llama": {"method": {"units": ["ffn", "heads", "layers"], "scope": "global"}},
    "gpt2": {"method": {"repair": "bias"}},
    "opt": {"method": {"scope": "global"}, "output": {"layout": "per_layer", "round_to": 1}},
    "phi3": {"method": {"units": ["ffn", "heads"]}},
    "t5": {"method": {"units": ["ffn", "heads", "head_dims"], "scope": "global"}},
    "t5_gated": {"method": {"units": ["ffn", "heads", "layers"], "scope": "global"}},
    "bart": {"method": {"repair": "bias"}},
    "marian": {},
    "bert": {},
}


@pytest.mark.parametrize("family", METHODS)
def test_counted_candidate_has_the_size_of_the_cut_model(family: str, tmp_path: Path) -> None:
    job = search_job(tmp_path, family, num_rows=4, **METHODS[family])
    dense = count_parameters(job.task_model.loaded.model)
    candidates = job.candidates()
    for ratio in (0.3, 0.5):
        candidate = candidates.at(ratio)
        slim = candidates.slim_copy(candidate)
        save_model(slim.loaded, tmp_path / f"slim-{ratio}")
        assert candidate.parameters == count_parameters(slim.loaded.model) < dense
        assert candidate.bytes == weight_file_bytes(tmp_path / f"slim-{ratio}")
    assert count_parameters(job.task_model.loaded.model) == dense


def test_biases_of_a_repair_are_counted(tmp_path: Path) -> None:
    job = search_job(tmp_path, num_rows=4, method={"repair": "bias"})
    candidates = job.candidates()
    candidate = candidates.at(0.5)
    assert candidate.parameters == count_parameters(candidates.slim_copy(candidate).loaded.model)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> SearchJob:
    method = {"scope": "global", "units": ["ffn", "heads"]}
    return search_job(tmp_path_factory.mktemp("job"), num_rows=4, method=method, output={"round_to": 1})


@settings(max_examples=30)
@given(ratios=st.lists(st.floats(0.001, 0.9), min_size=2, max_size=6, unique=True).map(sorted), seed=st.integers(0, 99))
def test_candidates_shrink_as_the_ratio_grows(counted: SearchJob, ratios: list[float], seed: int) -> None:
    candidates = counted.candidates(seed)
    found = [candidates.at(min(ratio, candidates.highest_ratio)) for ratio in ratios]
    for name in ("ratio", "parameters", "bytes"):
        values = [getattr(candidate, name) for candidate in found]
        assert values == sorted(values, reverse=name != "ratio")


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_largest_candidate_within_a_number_is_found_by_counting(name: str, tmp_path: Path) -> None:
    root, output = tmp_path / "whole", {"round_to": 1}
    everything = search_job(root, num_rows=4, output=output).candidates()
    sizes = sorted({int(getattr(everything.at(step / 200), name)) for step in range(180)})
    for number in (sizes[3], sizes[-2], sizes[-2] + 1, sizes[-1] - 1):
        job = search_job(tmp_path / str(number), num_rows=4, target={name: number}, output=output)
        found = getattr(largest_within(job.candidates(), job.context.job.request.target), name)
        assert found == max(size for size in sizes if size <= number)


def test_number_above_the_size_of_the_model_is_refused(tmp_path: Path) -> None:
    job = search_job(tmp_path, num_rows=4, target={"parameters": 10**9})
    with pytest.raises(InvalidRequest, match="as it is") as refused:
        largest_within(job.candidates(), job.context.job.request.target)
    assert refused.value.param == "target.parameters"


def test_number_below_the_smallest_candidate_is_unreachable(tmp_path: Path) -> None:
    job = search_job(tmp_path, num_rows=4, target={"bytes": 100})
    with pytest.raises(TargetUnreachable, match="the smallest model") as failed:
        largest_within(job.candidates(), job.context.job.request.target)
    assert failed.value.param == "target.bytes"
