"""What the routers of a model do on calibration rows: sums over tokens of their logits and inputs.

The logit of expert i at token n is H_ni = w_i x_n. Experts whose logits rise and fall together are called similar.

Shape suffixes: N tokens, E experts of a layer, D hidden size, M clusters.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.scoring.attribution import prepared
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.groups import Group, Site

# (inputs of the router (N, D), logits (N, E)), both float64 and of the tokens that count
RouterVisitor = Callable[[Tensor, Tensor], None]


def similarities(
    model: nn.Module, groups: Sequence[Group], batches: Sequence[Batch], on_batch: Callable[[int], None]
) -> dict[Site, Tensor]:
    """The similarity of every two experts of a layer, from 0 to 1, float64 on the CPU (E, E).

    It is (1 + cos(H_i, H_j)) / 2 over the tokens of the batches (UNCURL, section 3.1). Experts without any logit but
    zero are as near to all others as orthogonal ones.
    """
    products = {group.site: torch.zeros(group.count, group.count, dtype=torch.float64) for group in groups}

    def visit(group: Group) -> RouterVisitor:
        def add(_: Tensor, logit_NE: Tensor) -> None:
            products[group.site] += (logit_NE.T @ logit_NE).cpu()

        return add

    _pass(model, {group: visit(group) for group in groups}, batches, on_batch)
    return {site: (1 + _cosines(product_EE)) / 2 for site, product_EE in products.items()}


def _cosines(product_EE: Tensor) -> Tensor:
    norm_E = product_EE.diagonal().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    cosine_EE = product_EE / norm_E / norm_E.unsqueeze(1)
    return cosine_EE.clamp(-1, 1).fill_diagonal_(1)


@dataclass(frozen=True)
class RouterMoments:
    """Sums over tokens with which rows of a router are fitted, float64 on the CPU."""

    gram_DD: Tensor  # x x^T
    products_DM: Tensor  # x times the log-sum-exp of the logits of each cluster
    num_tokens: int


def moments(
    model: nn.Module,
    groups: Sequence[Group],
    clusters: Mapping[Site, Tensor],
    batches: Sequence[Batch],
    on_batch: Callable[[int], None],
) -> dict[Site, RouterMoments]:
    """The moments of the router of every group, for the cluster of each expert in `clusters` (E)."""
    grams = {group.site: torch.zeros(group.size, group.size, dtype=torch.float64) for group in groups}
    products = {
        group.site: torch.zeros(group.size, int(clusters[group.site].max()) + 1, dtype=torch.float64)
        for group in groups
    }

    def visit(group: Group) -> RouterVisitor:
        def add(input_ND: Tensor, logit_NE: Tensor) -> None:
            grams[group.site] += (input_ND.T @ input_ND).cpu()
            products[group.site] += (input_ND.T @ log_sum_exp(logit_NE, clusters[group.site])).cpu()

        return add

    _pass(model, {group: visit(group) for group in groups}, batches, on_batch)
    tokens = sum(int(batch.masks[groups[0].site.stack].sum()) for batch in batches)
    return {group.site: RouterMoments(grams[group.site], products[group.site], tokens) for group in groups}


def log_sum_exp(logit_NE: Tensor, cluster_E: Tensor) -> Tensor:
    """log sum_i exp(H_ni) over the experts i of each cluster (N, M)."""
    members = [logit_NE[:, cluster_E == cluster] for cluster in range(int(cluster_E.max()) + 1)]
    return torch.stack([logits.logsumexp(1) for logits in members], dim=1)


def _pass(
    model: nn.Module,
    visitors: Mapping[Group, RouterVisitor],
    batches: Sequence[Batch],
    on_batch: Callable[[int], None],
) -> None:
    """Run the batches, and call each visitor with what the router of its group reads and computes."""
    with prepared(model), torch.no_grad():
        for done, batch in enumerate(batches, 1):
            with ExitStack() as hooks:
                for group, visit in visitors.items():
                    mask_N = batch.masks[group.site.stack].flatten()
                    hooks.enter_context(_watch(model, group, mask_N, visit))
                model(**batch.inputs)
            on_batch(done)


@contextmanager
def _watch(model: nn.Module, group: Group, mask_N: Tensor, visit: RouterVisitor) -> Iterator[None]:
    router = model.get_submodule(group.router)
    weight_ED = router.get_parameter("weight").double()

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        input_ND = args[0].reshape(-1, group.size)[mask_N].double()
        visit(input_ND, input_ND @ weight_ED.T)

    handle = router.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
