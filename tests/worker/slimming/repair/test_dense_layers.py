"""Repairs of several cuts of one model that share what the dense model writes, and states that serve twice."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.options import Unit
from tests.support.architecture_rows import distinct, having, having_blocks
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.checkpoints.dtypes import round_weights
from worker.evaluation.answer_scores import score
from worker.slimming.architectures import architecture_of
from worker.slimming.repair import dense_layers, ridge
from worker.slimming.repair.dense_layers import DenseLayers
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.layer_pass import LayerPass
from worker.slimming.repair.repairs import repair
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Kept, Site
from worker.slimming.units.locating import locate

torch.set_num_threads(1)

METHOD = "least_squares_layerwise"
BLOCKS = distinct(having_blocks())
HEADS = [name for name in BLOCKS if name in having(Unit.heads)]
STACKS = {name: architecture_of(TINY[name]()).stacks for name in BLOCKS}
ALONE = [name for name in BLOCKS if len(STACKS[name]) == 1]


def of_each(model: PreTrainedModel, units: list[str], part: int) -> Kept:
    """The first of the units of every group, a part of them."""
    groups = locate(model, architecture_of(model), units)
    return {group.site: torch.arange(-(-group.count // (part * group.step)) * group.step) for group in groups}


def input_of(family: str, model: PreTrainedModel, kept: Kept) -> RepairInput:
    calibration = CalibrationBatches(batches(family, examples(9), 4), "margin")
    return RepairInput(model, architecture_of(model), kept, calibration)


def repaired(family: str, units: list[str], part: int, **fields: object) -> dict[str, Tensor]:
    model = TINY[family]()
    repair(replace(input_of(family, model, of_each(model, units, part)), **fields), METHOD)  # type: ignore[arg-type]
    return dict(model.named_parameters())


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that are run to their end, by index."""
    found, run = list[int](), LayerPass.run

    def recorded(layer_pass: LayerPass, inputs: object, consumers: object) -> object:
        found.append(layer_pass.index)
        return run(layer_pass, inputs, consumers)  # type: ignore[arg-type]

    monkeypatch.setattr(LayerPass, "run", recorded)
    return found


@pytest.mark.parametrize("family", ["llama", "t5", "bert", "gemma2"])
@pytest.mark.parametrize("spare", [2**30, 25_000, 0], ids=["all", "some", "none"])
def test_repairs_that_share_the_dense_model_are_those_of_each_alone(
    family: str, spare: int, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_layers, "spare_bytes", lambda free, needed: spare)
    shared, counts = DenseLayers(), []
    for part in (2, 4, 3):
        alone = repaired(family, ["ffn"], part)
        runs.clear()
        together = repaired(family, ["ffn"], part, dense=shared)
        counts.append(len(runs))
        assert all(torch.equal(weight, together[name]) for name, weight in alone.items())
    layers = sum(len(STACKS[family]) * [TINY[family]().config.num_hidden_layers])
    saved = counts[0] - counts[1]
    assert counts[1] == counts[2]
    assert saved == layers if spare == 2**30 else 0 <= saved < layers
    assert (saved == 0) == (spare == 0)


def test_shared_records_leave_room_for_the_states_of_a_repair() -> None:
    assert dense_layers.spare_bytes(100, 100) == dense_layers.spare_bytes(0, 100) == 0
    free, needed = 1000, 300  # the budget is half of what is free
    assert needed <= (2 * free - dense_layers.spare_bytes(free, needed)) // 2


@pytest.mark.parametrize("family", HEADS)
def test_a_layer_that_is_run_to_its_first_consumer_gives_the_same_fit(
    family: str, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = repaired(family, ["ffn", "heads"], 2)
    short = len(runs)
    runs.clear()
    monkeypatch.setattr(LayerPass, "begins_with", lambda layer_pass, consumers: False)
    expected = repaired(family, ["ffn", "heads"], 2)
    if all(stack.stream == "" and stack.stream_unless is None for stack in STACKS[family]):
        assert short < len(runs)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ALONE)
def test_states_behind_the_last_layer_give_the_scores_of_the_cut_model(family: str) -> None:
    model, states = TINY[family](), list[Tensor]()
    round_weights(model, torch.bfloat16)
    architecture, kept = architecture_of(model), of_each(model, ["ffn"], 2)
    given = input_of(family, model, kept)
    repair(replace(given, on_states=states.extend, rounded_to=torch.bfloat16), METHOD)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    round_weights(model, torch.bfloat16)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    cut(model, architecture, kept)
    rows = given.calibration.batches
    expected, found = score(model, rows, lambda done: None), score(model, rows, lambda done: None, states)
    torch.testing.assert_close(found.score_EL, expected.score_EL, rtol=1e-3, atol=1e-3)
    assert torch.equal(score(model, rows, lambda done: None).score_EL, expected.score_EL)  # the model is as it was
    others = score(model, rows, lambda done: None, [-state for state in states]).score_EL
    assert (others - expected.score_EL).abs().max() > 1e-2


def test_states_are_given_where_a_layer_is_removed() -> None:
    model, states = TINY["llama"](), list[Tensor]()
    of_layers = {Site("decoder", index, "layers"): torch.arange(1 - index) for index in range(2)}
    kept = {**of_each(model, ["ffn"], 2), **of_layers}
    given = input_of("llama", model, kept)
    repair(replace(given, on_states=states.extend), METHOD)
    cut(model, architecture_of(model), kept)
    rows = given.calibration.batches
    expected, found = score(model, rows, lambda done: None), score(model, rows, lambda done: None, states)
    torch.testing.assert_close(found.score_EL, expected.score_EL, rtol=1e-4, atol=1e-4)


def test_the_change_of_the_weights_is_that_of_the_whole_fit() -> None:
    draw = torch.Generator().manual_seed(0)
    input_NC, weight_OC = (torch.randn(*size, generator=draw).double() for size in ((50, 9), (4, 9)))
    gram_CC = input_NC.T @ input_NC / 50
    kept, gone = [0, 2, 3, 5, 8], [1, 4, 6, 7]
    gram_KK, prior_OK = gram_CC[kept][:, kept], weight_OC[:, kept]
    whole_OK = ridge.solve(gram_KK, weight_OC @ gram_CC[:, kept], prior_OK, 0.1)
    change_OK = ridge.change(gram_KK, weight_OC[:, gone] @ gram_CC[gone][:, kept], 0.1)
    torch.testing.assert_close(prior_OK + change_OK, whole_OK)
