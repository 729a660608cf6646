"""Merges the experts of each cluster into one, without training.

The merged expert takes the place of the expert of its cluster that has the highest score, so that a later cut removes
the others. Its matrices are the mean of the cluster's, weighted by the scores, after the neurons are aligned. The paper
draws a new router at random and trains it. Here its rows are computed, by one of two rules:

    mean:         the mean of the cluster's rows, with the same weights
    log_sum_exp:  the row r whose logit r x is nearest to log sum_i exp(w_i x) on the calibration rows, by least squares

With that logit the softmax gives a merged expert the sum of the probabilities of its cluster, and leaves the others'.

Shape suffixes: E experts of a layer, I neurons of an expert, D hidden size, K clusters.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from worker.slimming.merging.alignment import Expert, aligned
from worker.slimming.merging.clusters import representatives, shares
from worker.slimming.merging.router_logits import RouterMoments, moments
from worker.slimming.repair import ridge
from worker.slimming.scoring.objectives import Batch
from worker.slimming.streaming.mapped import beside
from worker.slimming.units.groups import Group, Scores, Site

LEAST_RIDGE = 1e-3  # share of the mean of the Gram matrix's diagonal
MEAN, LOG_SUM_EXP = "mean", "log_sum_exp"


def merge(
    model: nn.Module,
    groups: Sequence[Group],
    clusters: Mapping[Site, Tensor],
    scores: Scores,
    batches: Sequence[Batch],
    router_rule: str,
    on_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Merge the experts of each group in place, by the cluster of each in `clusters` (E). Scores are not negative.

    Parameters are replaced, because other models may share them. The rule "log_sum_exp" passes over the batches once.
    """
    is_fitted = router_rule == LOG_SUM_EXP
    found = moments(model, groups, clusters, batches, on_batch) if is_fitted else dict[Site, RouterMoments]()
    with torch.no_grad():
        for group in groups:
            score_E = scores[group.site].double()
            _merge_matrices(model.get_submodule(group.module), clusters[group.site], score_E)
            router = model.get_submodule(group.router)
            _merge_rows(router, clusters[group.site], score_E, found.get(group.site))


def _merge_matrices(module: nn.Module, cluster_E: Tensor, score_E: Tensor) -> None:
    """Write the merged expert of each cluster in the place of its expert with the highest score."""
    experts, share_E = _experts(module), shares(cluster_E, score_E)
    merged = list(experts)
    for number, place in enumerate(representatives(cluster_E, score_E).tolist()):
        members = (cluster_E == number).nonzero().flatten().tolist()
        merged[place] = _mean([aligned(experts[member], experts[place]) for member in members], share_E[members])
    _replace(module, "gate_up_proj", torch.stack([torch.cat([each.gate_ID, each.up_ID]) for each in merged]))
    _replace(module, "down_proj", torch.stack([each.down_DI for each in merged]))


def _experts(module: nn.Module) -> list[Expert]:
    """The experts of a module, float32."""
    gate_EID, up_EID = module.get_parameter("gate_up_proj").float().chunk(2, dim=1)
    down_EDI = module.get_parameter("down_proj").float()
    return [Expert(*matrices) for matrices in zip(gate_EID, up_EID, down_EDI, strict=True)]


def _mean(members: Sequence[Expert], share_E: Tensor) -> Expert:
    """The mean of experts with these shares."""
    gate_ID, up_ID, down_DI = (
        torch.tensordot(share_E.to(matrices[0]), torch.stack(matrices), dims=1)
        for matrices in zip(*members, strict=True)
    )
    return Expert(gate_ID, up_ID, down_DI)


def _merge_rows(router: nn.Module, cluster_E: Tensor, score_E: Tensor, found: RouterMoments | None) -> None:
    weight_ED = router.get_parameter("weight").double().cpu()
    share_E = shares(cluster_E, score_E)
    row_KD = torch.zeros(int(cluster_E.max()) + 1, weight_ED.shape[1], dtype=torch.float64)
    row_KD.index_add_(0, cluster_E, share_E.unsqueeze(1) * weight_ED)
    if found is not None:
        row_KD = fitted_rows(row_KD, found)
    weight_ED[representatives(cluster_E, score_E)] = row_KD
    _replace(router, "weight", weight_ED)


def fitted_rows(row_KD: Tensor, found: RouterMoments) -> Tensor:
    """Ridge regression of the clusters' log-sum-exp on the router's inputs, towards the rows `row_KD` (K, D).

    r = r_0 + (X^T X + a I)^-1 X^T (t - X r_0), with a as `repair.ridge` says.
    """
    gram_DD = found.gram_DD
    strength = ridge.share(len(gram_DD), found.num_tokens, LEAST_RIDGE) * float(gram_DD.diagonal().mean())
    left_DK = found.products_DM - gram_DD @ row_KD.T
    ridged_DD = gram_DD + strength * torch.eye(len(gram_DD), dtype=torch.float64)
    change_DK: Tensor = torch.linalg.solve(ridged_DD, left_DK)
    return row_KD + change_DK.T


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    old = module.get_parameter(name)
    setattr(module, name, nn.Parameter(beside(old, value.to(old)), requires_grad=old.requires_grad))
