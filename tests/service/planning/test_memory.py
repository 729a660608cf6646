"""The memory and the passes that a plan states, against what scoring and repair of a model hold and do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.contract.options import Unit
from service.models.families.table import FAMILIES
from service.planning import memory
from service.planning.admission import check_request
from service.planning.memory import Need, memory_of
from service.planning.plan import plan
from service.sources.access import Access
from service.sources.checkpoint import Checkpoint, read_checkpoint
from tests.support import checkpoints
from tests.support.batches import batches, examples
from tests.support.planning import request_for
from tests.support.tiny_models import causal, tiny_family
from worker.checkpoints.loading import count_parameters
from worker.evaluation.memory import LiveStorages, weight_bytes
from worker.slimming import free_memory
from worker.slimming.architectures import ARCHITECTURES, architecture_of
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.layerwise import state_bytes
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring import second_moments
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.streaming.layers import can_stream
from worker.slimming.units.groups import Group
from worker.slimming.units.locating import locate

FITTED = {"units": ["ffn", "heads"], "criterion": "surgeon", "repair": "least_squares_layerwise"}
STATED = 2  # the factor within which a plan states the peak


def checkpoint_in(directory: Path, access: Access, **fields: Any) -> tuple[Checkpoint, Any]:
    """The checkpoint in a directory, and a request for it."""
    request = request_for(directory, **fields)
    return read_checkpoint(check_request(request, access)), request


def consumed(name: str, model: Any, units: list[Unit]) -> list[Group]:
    groups = locate(model, ARCHITECTURES[tiny_family(name).model_type], units)
    return [group for group in groups if group.hook_point == "input"]


@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "t5", "bart", "bert", "qwen3_moe", "gemma4_text"])
def test_the_matrices_are_those_that_the_worker_holds(name: str, tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path, name)
    units = [unit for unit in FAMILIES[tiny_family(name).model_type].units if unit not in ("vocabulary", "layers")]
    method = {"units": units, "repair": "none", "scope": "global"}
    checkpoint, request = checkpoint_in(tmp_path, access, method=method)
    need = Need.of(request, checkpoint, 1)
    groups = consumed(name, model, units)
    for effects in (False, True):
        held = [second_moments.matrix_bytes(model, group, effects=effects) for group in groups]
        assert sorted(need.matrices(effects=effects)) == sorted(held)


def test_the_share_of_the_free_memory_is_that_of_the_worker() -> None:
    assert memory.FREE_SHARE == free_memory.FREE_SHARE


@pytest.mark.parametrize("portion", [1, 2, 3, 100])
def test_the_passes_are_those_of_the_worker(
    portion: int, tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checkpoints.write(tmp_path, "llama")
    checkpoint, request = checkpoint_in(tmp_path, access, method=FITTED)
    need, groups = Need.of(request, checkpoint, 1), consumed("llama", model, [Unit.ffn, Unit.heads])
    limit = portion * max(need.matrices(effects=True))
    monkeypatch.setattr(second_moments, "budget", lambda device: limit)
    stated = need.on(need.weights + 2 * limit)
    assert stated.scoring_passes == len(second_moments.portions(model, groups, effects=True))
    whole = stated.scoring_passes == 1
    assert stated.repair_passes == (0 if whole else len(second_moments.portions(model, groups)))


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "gemma4_text", "gemma4_text_shared"])
def test_a_plan_says_what_a_cpu_streams(name: str, tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path, name, torch.bfloat16)
    checkpoint, request = checkpoint_in(tmp_path, access)
    stated = memory_of(request, checkpoint, 1)
    assert stated.streamed_on_cpu == can_stream(architecture_of(model), model.config)
    assert stated.cpu_weights == 2 * stated.weights == 4 * count_parameters(model)


def test_a_device_smaller_than_the_weights_has_no_peak(tmp_path: Path, access: Access) -> None:
    checkpoints.write(tmp_path, "llama")
    checkpoint, request = checkpoint_in(tmp_path, access)
    stated = Need.of(request, checkpoint, 1).on(1000)
    assert (stated.holds_weights, stated.peak, stated.scoring_passes) == (False, None, None)


def test_a_plan_states_the_memory(tmp_path: Path, access: Access) -> None:
    model = checkpoints.write(tmp_path, "llama")
    few, many = (plan(request_for(tmp_path, method=FITTED), access, tokens).memory for tokens in (64, 4096))
    assert few.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert many.batch == 64 * few.batch
    assert few.matrices > 0
    without = plan(request_for(tmp_path, method={"repair": "none", "criterion": "magnitude"}), access).memory
    assert (without.matrices, without.state_per_token) == (0, 0)
    assert {stated.scoring_passes for stated in without.devices} == {0}


@pytest.mark.parametrize("rows", [8, 64])
@pytest.mark.parametrize("method", [FITTED, {"repair": "none", "criterion": "attribution"}], ids=["fitted", "plain"])
def test_scoring_and_repair_take_what_the_plan_states(
    method: dict[str, Any], rows: int, tmp_path: Path, access: Access
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3}
    model = causal("llama", **sizes).requires_grad_(False)
    checkpoints.save(tmp_path, model)
    checkpoint, request = checkpoint_in(tmp_path, access, method=method)
    [batch] = batches("llama", examples(rows), rows, extra_padding=20)
    architecture = ARCHITECTURES["llama"]
    groups = locate(model, architecture, request.method.units)
    kept = {group.site: torch.arange(group.count // 2) for group in groups}
    with LiveStorages() as alive:
        _, moments = score(
            model, architecture, request.method.units, [batch], request.method.criterion, Options(objective="margin")
        )
        repair_input = RepairInput(model, architecture, kept, CalibrationBatches([batch], "margin"), moments)
        if request.method.repair != "none":
            repair(repair_input, request.method.repair)
    tokens = batch.inputs["input_ids"].numel()
    stated = replace(Need.of(request, checkpoint, tokens)).on(2**33)
    states = memory_of(request, checkpoint, tokens).state_per_token * tokens
    assert states == (state_bytes(repair_input) if request.method.repair != "none" else 0)
    assert stated.peak is not None
    measured = weight_bytes(model) + alive.peak
    assert stated.peak / STATED <= measured <= stated.peak * STATED
