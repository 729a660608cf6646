"""Targets as a client gives them: what goes together, what is refused, and what a plan says of each."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from service.contract.errors import InvalidRequest, TargetUnreachable
from service.contract.method import LatencyBound, Target
from service.planning.plan import plan
from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support import checkpoints
from tests.support.planning import request_for
from worker.checkpoints.validation import weight_bytes


@pytest.fixture
def access(storage: Storage) -> Access:
    """Access of a caller who may name every local path."""
    return Access(storage, "default", True, ())


@pytest.mark.parametrize(
    "target",
    [
        {"ratio": 0.3},
        {"parameters": 10**8},
        {"bytes": 10**8},
        {"latency_ms": 40},
        {"latency_ms": {"value": 40, "batch": 8, "tokens": 128}},
        {"keep_metric": 0.98},
        {"keep_metric": 0.98, "parameters": 10**8},
        {"keep_metric": 0.98, "bytes": 10**8},
        {"keep_metric": 1, "latency_ms": 12.5},
        {"sweep": [0.1, 0.3]},
        {"sweep": [0.1, 0.3], "artifacts": [0.3]},
    ],
    ids=str,
)
def test_targets_that_can_be_asked_for(target: dict[str, Any]) -> None:
    Target.model_validate(target)


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"ratio": 0.3, "keep_metric": 0.98},
        {"ratio": 0.3, "parameters": 10**8},
        {"parameters": 10**8, "bytes": 10**8},
        {"parameters": 10**8, "bytes": 10**8, "keep_metric": 0.9},
        {"sweep": [0.1], "keep_metric": 0.9},
        {"sweep": []},
        {"sweep": [0.1], "artifacts": [0.2]},
        {"ratio": 0.1, "artifacts": [0.1]},
        {"keep_metric": 0},
        {"keep_metric": 1.1},
        {"latency_ms": 0},
        {"latency_ms": {"batch": 2}},
        {"parameters": 1.5},
    ],
    ids=str,
)
def test_targets_that_contradict_themselves_are_refused(target: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Target.model_validate(target)


def test_a_latency_is_a_number_or_a_number_with_its_pass() -> None:
    assert Target.model_validate({"latency_ms": 40}).latency_ms == LatencyBound(value=40, batch=1, tokens=64)


def test_a_refused_combination_names_the_field(client: TestClient, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    body = request_for(tmp_path).model_dump(mode="json")
    for path in ("/jobs", "/plans"):
        answer = client.post(path, json=body | {"target": {"ratio": 0.3, "bytes": 1000}})
        assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, "target")


# --- plans ---------------------------------------------------------------------------------------------------------


def test_a_number_is_planned_exactly(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    ratios = [step / 100 for step in range(10, 80)]
    made = [plan(request_for(tmp_path, ratio), access) for ratio in ratios]
    for name in ("parameters", "bytes"):
        sizes = {getattr(planned, name).slim for planned in made}
        for size in sizes:
            for number in (size, size + 1):
                planned = plan(request_for(tmp_path, target={name: number}), access)
                assert planned.exact
                assert getattr(planned, name).slim == size


def test_a_global_rank_is_planned_to_the_number(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    dense = plan(request_for(tmp_path), access).parameters.dense
    planned = plan(request_for(tmp_path, method={"scope": "global"}, target={"parameters": dense - 2000}), access)
    assert not planned.exact
    assert planned.parameters.slim is not None
    assert dense - 2010 <= planned.parameters.slim <= dense - 2000


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_a_number_that_is_no_target_is_refused_before_any_work(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    with pytest.raises(TargetUnreachable, match="the smallest model"):
        plan(request_for(tmp_path, target={name: 10}), access)
    with pytest.raises(InvalidRequest, match="ask for fewer"):
        plan(request_for(tmp_path, target={name: weight_bytes(tmp_path)}), access)


@pytest.mark.parametrize("target", [{"keep_metric": 0.98}, {"latency_ms": 40}, {"latency_ms": 4, "keep_metric": 0.9}])
def test_what_has_to_be_measured_is_left_open(target: dict[str, Any], tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    planned = plan(request_for(tmp_path, target=target), access)
    assert (planned.exact, planned.ratio, planned.widths) == (False, None, [])
    assert (planned.parameters.slim, planned.bytes.slim) == (None, None)
    assert planned.runtimes


def test_a_bound_beside_a_floor_is_the_most_that_a_plan_knows(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    dense = plan(request_for(tmp_path), access).parameters.dense
    alone, both = (
        plan(request_for(tmp_path, target={"parameters": dense - 2000} | more), access)
        for more in ({}, {"keep_metric": 0.9})
    )
    assert both.parameters == alone.parameters
    assert (both.exact, both.widths) == (False, [])


def test_a_sweep_is_planned_by_the_model_that_it_ends_with(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    swept = plan(request_for(tmp_path, target={"sweep": [0.1, 0.3, 0.5], "artifacts": [0.1, 0.3]}), access)
    assert swept == plan(request_for(tmp_path, 0.3), access)
    with pytest.raises(TargetUnreachable) as refused:
        plan(request_for(tmp_path, target={"sweep": [0.1, 0.95]}, output={"round_to": 48}), access)
    assert refused.value.param == "target.sweep"
