"""The repair of experts that lose neurons.

Shape suffixes: E experts, D hidden size, I neurons of an expert, K those that stay.
"""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.options import Unit
from tests.support.architecture_rows import having
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.repair import expert_fits
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.second_moments import RIDGE
from worker.slimming.selection import select
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.slimming.units.groups import Group, Kept, Site
from worker.slimming.units.locating import locate

families = pytest.mark.parametrize("family", having(Unit.experts))
SITE = Site("decoder", 1, "expert_ffn")


def rows(family: str) -> CalibrationBatches:
    return CalibrationBatches(batches(family, examples(64), 16), "margin")


def group_of(model: PreTrainedModel) -> Group:
    groups = locate(model, ARCHITECTURES[model.config.model_type], ["ffn"])
    return next(group for group in groups if group.site == SITE)


def half(group: Group) -> Kept:
    draw = torch.Generator().manual_seed(2)
    return select({group.site: torch.rand(group.count, generator=draw)}, [group], 0.5, 4)


@torch.no_grad()
def outputs(model: PreTrainedModel, family: str, kept: Kept) -> Tensor:
    """The output of the experts of the second layer for each token, with only the `kept` neurons."""
    found, group = list[Tensor](), group_of(model)
    handle = model.get_submodule(group.module).register_forward_hook(lambda _, __, output: found.append(output))
    with masked(model, ARCHITECTURES[model.config.model_type], kept):
        for batch in rows(family).batches:
            model(**batch.inputs)
    handle.remove()
    counts = torch.cat([batch.masks["decoder"].flatten() for batch in rows(family).batches])
    return torch.cat(found)[counts]


@families
@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
def test_experts_come_nearer_to_what_they_wrote_in_the_dense_model(family: str, method: str) -> None:
    model = TINY[family]()
    kept, dense = half(group_of(model)), copy_sharing_tensors(model)
    expected, cut = outputs(dense, family, {}), outputs(dense, family, kept)
    whole = RepairInput(model, ARCHITECTURES[model.config.model_type], kept, rows(family))
    repair(whole, method)
    repaired = outputs(model, family, kept)
    assert float((repaired - expected).square().mean()) < 0.9 * float((cut - expected).square().mean())
    assert torch.equal(outputs(dense, family, {}), expected)


def test_kept_columns_are_the_ridge_regression_of_each_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_fits, "token_weights", lambda gradient_BTO, mask_BT: mask_BT.float())
    model, found = TINY["mixtral"](), list[tuple[Tensor, ...]]()
    group = group_of(model)
    module, kept = model.get_submodule(group.module), half(group)
    old_EDI = module.get_parameter("down_proj").detach().clone().double()
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args))
    with torch.no_grad():
        for batch in rows("mixtral").batches:
            model(**batch.inputs)
    handle.remove()
    repair(RepairInput(model, ARCHITECTURES["mixtral"], kept, rows("mixtral")), "least_squares")
    counts_N = torch.cat([batch.masks["decoder"].flatten() for batch in rows("mixtral").batches])
    hidden_ND, expert_NK, gate_NK = (torch.cat(each)[counts_N] for each in zip(*found, strict=True))
    for expert in expert_NK.unique().tolist():
        token_M, choice_M = (expert_NK == expert).nonzero(as_tuple=True)
        both = hidden_ND[token_M] @ module.get_parameter("gate_up_proj")[expert].detach().T
        gate_MI, up_MI = both.chunk(2, dim=1)
        gated_MI = (torch.nn.functional.silu(gate_MI) * up_MI * gate_NK[token_M, choice_M, None]).double()
        kept_K = kept[SITE].view(group.rows, -1)[expert] - expert * gated_MI.shape[1]
        input_MK, old_KD = gated_MI[:, kept_K], old_EDI[expert].T[kept_K]
        least = max(RIDGE, len(kept_K) / len(token_M)) * float(input_MK.square().mean())
        ridge_KK = (least * len(token_M)) ** 0.5 * torch.eye(len(kept_K), dtype=torch.float64)
        targets = torch.cat([gated_MI @ old_EDI[expert].T, ridge_KK @ old_KD])
        expected_KD = torch.linalg.lstsq(torch.cat([input_MK, ridge_KK]), targets).solution
        fitted_DI = module.get_parameter("down_proj")[expert].detach().double()
        torch.testing.assert_close(fitted_DI.T[kept_K], expected_KD, rtol=1e-3, atol=1e-5)


def test_an_expert_without_tokens_keeps_its_weights() -> None:
    model = TINY["mixtral"]()
    group, architecture = group_of(model), ARCHITECTURES["mixtral"]
    old_EDI = model.get_parameter(f"{group.module}.down_proj").detach().clone()
    with masked(model, architecture, {Site("decoder", 1, "experts"): torch.tensor([0, 2, 5])}):
        repair(RepairInput(model, architecture, half(group), rows("mixtral")), "least_squares")
    new_EDI = model.get_parameter(f"{group.module}.down_proj")
    changed = [not torch.equal(new_EDI[expert], old_EDI[expert]) for expert in range(8)]
    assert changed == [expert in (0, 2, 5) for expert in range(8)]


def test_the_gate_of_a_shared_expert_does_not_move_the_stream_of_a_fit() -> None:
    """Only the first fit is made of a block whose output is multiplied with a gate of each token."""
    found = []
    for method in ("least_squares", "least_squares_layerwise"):
        model, architecture = TINY["qwen2_moe"](), ARCHITECTURES["qwen2_moe"]
        groups = locate(model, architecture, ["ffn"])
        draw = torch.Generator().manual_seed(2)
        kept = select({group.site: torch.rand(group.count, generator=draw) for group in groups}, groups, 0.5, 4)
        repair(RepairInput(model, architecture, kept, rows("qwen2_moe")), method)
        found.append(model.get_parameter("model.layers.1.mlp.shared_expert.down_proj.weight").detach())
    assert torch.equal(*found)
