"""The figures that a plan gives for each kind of target."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contract.errors import InvalidRequest, TargetUnreachable
from service.planning.plan import plan
from service.sources.access import Access
from tests.support import checkpoints
from tests.support.planning import request_for
from worker.sources.validation import weight_file_bytes


def test_two_targets_in_one_request_are_refused(client: TestClient, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, "llama")
    body = request_for(tmp_path).model_dump(mode="json")
    for path in ("/jobs", "/plans"):
        answer = client.post(path, json=body | {"target": {"ratio": 0.3, "bytes": 1000}})
        assert (answer.status_code, answer.json()["errors"][0]["param"]) == (422, "target")


def test_a_size_target_is_planned_exactly(tmp_path: Path, access: Access) -> None:
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


def test_a_size_target_is_met_closely_in_a_global_rank(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    dense = plan(request_for(tmp_path), access).parameters.dense
    planned = plan(request_for(tmp_path, method={"scope": "global"}, target={"parameters": dense - 2000}), access)
    assert not planned.exact
    assert planned.parameters.slim is not None
    assert dense - 2010 <= planned.parameters.slim <= dense - 2000


@pytest.mark.parametrize("name", ["parameters", "bytes"])
def test_a_size_target_out_of_range_is_refused(name: str, tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    with pytest.raises(TargetUnreachable, match="the smallest model"):
        plan(request_for(tmp_path, target={name: 10}), access)
    with pytest.raises(InvalidRequest, match="ask for fewer"):
        plan(request_for(tmp_path, target={name: weight_file_bytes(tmp_path)}), access)


@pytest.mark.parametrize("target", [{"keep_metric": 0.98}, {"latency_ms": 40}, {"latency_ms": 4, "keep_metric": 0.9}])
def test_a_measured_target_leaves_the_figures_open(target: dict[str, Any], tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    planned = plan(request_for(tmp_path, target=target), access)
    assert (planned.exact, planned.ratio, planned.widths) == (False, None, [])
    assert (planned.parameters.slim, planned.bytes.slim) == (None, None)
    assert planned.runtimes


def test_a_size_bound_is_planned_where_the_metric_has_a_floor(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    dense = plan(request_for(tmp_path), access).parameters.dense
    alone, both = (
        plan(request_for(tmp_path, target={"parameters": dense - 2000} | more), access)
        for more in ({}, {"keep_metric": 0.9})
    )
    assert both.parameters == alone.parameters
    assert (both.exact, both.widths) == (False, [])


def test_a_sweep_is_planned_by_its_last_artifact(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    swept = plan(request_for(tmp_path, target={"sweep": [0.1, 0.3, 0.5], "artifacts": [0.1, 0.3]}), access)
    assert swept == plan(request_for(tmp_path, 0.3), access)
    with pytest.raises(TargetUnreachable) as refused:
        plan(request_for(tmp_path, target={"sweep": [0.1, 0.95]}, output={"round_to": 48}), access)
    assert refused.value.param == "target.sweep"
