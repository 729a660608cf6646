"""Merged experts against sums over experts and tokens that are written out.

Shape suffixes: N tokens, E experts, D hidden size, K clusters.
"""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.options import MergedRouter
from tests.support.architecture_rows import mergeable
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, logits
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.masking import masked
from worker.slimming.merging.alignment import Expert, aligned
from worker.slimming.merging.clusters import representatives
from worker.slimming.merging.merging import LOG_SUM_EXP, MEAN, fitted_rows, merge
from worker.slimming.merging.router_logits import RouterMoments, moments, similarities
from worker.slimming.scoring.objectives import Batch
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Group, Scores, Site
from worker.slimming.units.locating import locate

families = pytest.mark.parametrize("family", mergeable())
SITE = Site("decoder", 1, "experts")
CLUSTERS = {Site("decoder", layer, "experts"): torch.tensor([0, 1, 0, 2, 1, 0, 2, 2]) for layer in (0, 1)}
SCORES: Scores = {site: torch.tensor([0.3, 0.0, 0.1, 0.2, 0.4, 0.0, 0.2, 0.1]) for site in CLUSTERS}


def groups_of(model: PreTrainedModel) -> list[Group]:
    return locate(model, ARCHITECTURES[model.config.model_type], ["experts"])


def rows(family: str, size: int = 6) -> list[Batch]:
    return batches(family, examples(6), size)


@torch.no_grad()
def router_inputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """What the router of the second layer reads at the tokens that count (N, D), float64."""
    router, found = model.get_submodule("model.layers.1.mlp.gate"), list[Tensor]()
    handle = router.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    model(**batch.inputs)
    handle.remove()
    return found[0][batch.masks["decoder"].flatten()].double()


def test_the_contract_lists_the_rules_of_the_router() -> None:
    assert {LOG_SUM_EXP, MEAN} == set(MergedRouter)


@families
def test_similarity_is_the_cosine_of_logits_over_tokens(family: str) -> None:
    model = TINY[family]()
    weight_ED = model.get_parameter("model.layers.1.mlp.gate.weight").detach().double()
    logit_EN = (router_inputs(model, rows(family)[0]) @ weight_ED.T).T
    expected_EE = (1 + nn.functional.cosine_similarity(logit_EN.unsqueeze(0), logit_EN.unsqueeze(1), dim=2)) / 2
    done: list[int] = []
    found = similarities(model, groups_of(model), rows(family, 2), done.append)
    torch.testing.assert_close(found[SITE], expected_EE, rtol=1e-4, atol=1e-6)
    assert done == [1, 2, 3]


def matrices(model: PreTrainedModel) -> list[Expert]:
    """The experts of the second layer."""
    gate_up, down = (
        model.get_parameter(f"model.layers.1.mlp.experts.{name}") for name in ("gate_up_proj", "down_proj")
    )
    width = gate_up.shape[1] // 2
    return [Expert(gate_up[e, :width], gate_up[e, width:], down[e]) for e in range(len(down))]


@families
@torch.no_grad()
def test_a_merged_expert_is_the_mean_of_its_aligned_cluster(family: str) -> None:
    model = TINY[family]()
    before, row_ED = matrices(model), model.get_parameter("model.layers.1.mlp.gate.weight").clone()
    merge(model, groups_of(model), CLUSTERS, SCORES, rows(family), MEAN)
    after, merged_ED = matrices(model), model.get_parameter("model.layers.1.mlp.gate.weight")
    # (place of the merged expert, its members, their shares)
    for place, members, shares in (
        (0, (0, 2, 5), (0.75, 0.25, 0.0)),
        (4, (1, 4), (0.0, 1.0)),
        (3, (3, 6, 7), (0.4, 0.4, 0.2)),
    ):
        ordered = [aligned(before[member], before[place]) for member in members]
        for part, found in enumerate(after[place]):
            expected = sum(share * each[part] for share, each in zip(shares, ordered, strict=True))
            torch.testing.assert_close(found, expected)
        expected_D = sum(share * row_ED[member] for share, member in zip(shares, members, strict=True))
        torch.testing.assert_close(merged_ED[place], expected_D)


def test_rows_are_fitted_to_the_log_sum_exp_of_their_cluster() -> None:
    model, [batch], number = TINY["mixtral"](), rows("mixtral"), 2
    input_ND, weight_ED = router_inputs(model, batch), model.get_parameter("model.layers.1.mlp.gate.weight").double()
    members = (CLUSTERS[SITE] == number).nonzero().flatten()
    wanted_N = (input_ND @ weight_ED.T)[:, members].exp().sum(1).log().detach()
    found = moments(model, groups_of(model), CLUSTERS, rows("mixtral", 4), lambda done: None)[SITE]
    torch.testing.assert_close(found.gram_DD, input_ND.T @ input_ND, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.products_DM[:, number], input_ND.T @ wanted_N, rtol=1e-4, atol=1e-4)
    assert found.num_tokens == len(input_ND)


def test_a_fit_to_many_tokens_is_least_squares_and_to_few_keeps_the_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    input_ND, target_NM = (torch.randn(4000, size, generator=draw, dtype=torch.float64) for size in (6, 2))
    start_KD = torch.ones(2, 6, dtype=torch.float64)
    many = RouterMoments(input_ND.T @ input_ND, input_ND.T @ target_NM, 10**9)
    expected_DK = torch.linalg.lstsq(input_ND, target_NM).solution
    torch.testing.assert_close(fitted_rows(start_KD, many), expected_DK.T, atol=1e-2, rtol=0)
    few = RouterMoments(many.gram_DD, many.products_DM, 0)
    assert (fitted_rows(start_KD, few) - start_KD).norm() < (expected_DK.T - start_KD).norm()


@families
@pytest.mark.parametrize("rule", [LOG_SUM_EXP, MEAN])
@torch.no_grad()
def test_a_merged_model_that_is_cut_computes_what_it_computes_masked(family: str, rule: str) -> None:
    model, dense = TINY[family](), logits(TINY[family]())
    architecture = ARCHITECTURES[model.config.model_type]
    merge(model, groups_of(model), CLUSTERS, SCORES, rows(family), rule)
    kept = {site: representatives(cluster_E, SCORES[site]).sort().values for site, cluster_E in CLUSTERS.items()}
    with masked(model, architecture, kept):
        expected = logits(model)
    cut(model, architecture, kept)
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, dense, atol=1e-3)


def test_merging_equal_experts_changes_nothing() -> None:
    """Pairs of equal experts in another order of neurons, of which each token is sent to one pair."""
    model = TINY["mixtral"]()
    for layer in (0, 1):
        path, order = f"model.layers.{layer}.mlp", torch.randperm(48, generator=torch.Generator().manual_seed(layer))
        gate_up, down, row = (
            model.get_parameter(f"{path}.{name}").data
            for name in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")
        )
        gate_up[4:], down[4:] = gate_up[:4][:, torch.cat([order, order + 48])], down[:4][:, :, order]
        row[4:] = row[:4]
    expected = logits(model)  # the two best experts of a token are a pair
    clusters = {site: torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]) for site in CLUSTERS}
    scores = {site: torch.ones(8) for site in CLUSTERS}
    merge(model, groups_of(model), clusters, scores, rows("mixtral"), MEAN)
    cut(model, ARCHITECTURES["mixtral"], {site: torch.arange(4) for site in CLUSTERS})
    for layer in (0, 1):
        vars(model.get_submodule(f"model.layers.{layer}.mlp.gate"))["top_k"] = 1
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-4)
