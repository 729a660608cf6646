"""Takes units from a module that reads them, each time those whose loss the others can best make up for.

The module computes y = W h. What a change of W does to the objective is, to first order, g^T dW h for a token with the
gradient g = dJ/dy; its mean square is tr(S dW G dW^T) with G = E[h h^T], S = E[g g^T], if g and h are taken for
independent (the Kronecker factors of Martens and Grosse, arXiv 1503.05671). Of all W that do without the unit i the
best is W - w_i (G^-1)_i / (G^-1)_ii, and costs

    (w_i^T S w_i) / (G^-1)_ii

(the optimal brain surgeon of Hassibi and Stork, NIPS 1992): the mean square of dJ/dh_i, times the part of h_i that the
others cannot tell. For units that nothing stands in for that is the second moment of attribution, h_i * dJ/dh_i.

Shape suffixes: U units, C channels (C = U * size), O outputs, L channels that are left, D candidates to go next,
B channels that go, K channels that stay.
"""

import math

import torch
from torch import Tensor

BLOCK = 64  # neurons that go between two looks at the costs of all
CANDIDATES = 128  # the cheapest at such a look, among which each removal of the block is followed exactly
RISE = 1 + 1e-6  # the least rise from one unit's cost to the next one's, so that ranks tell the order


def costs(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, size: int) -> Tensor:
    """What the objective's mean square changes by when the unit goes, in the order in which units go (U), float64.

    `spread_CC` must be positive definite. Costs rise along the order, so that the units above any threshold are
    those that are left at some point of it.
    """
    eliminate = _neurons if size == 1 else _blocks
    order_U, cost_U = eliminate(weight_OC, spread_CC, effect_OO, size)
    return torch.empty_like(cost_U).index_copy_(0, order_U, _risen(cost_U))


def _risen(cost_U: Tensor) -> Tensor:
    """The least costs that are no lower than these and rise by the factor RISE at every step (U)."""
    slope_U = torch.arange(len(cost_U), dtype=torch.float64) * math.log(RISE)
    return ((cost_U.log() - slope_U).cummax(0).values + slope_U).exp()


def _neurons(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, _: int) -> tuple[Tensor, Tensor]:
    """Units of one channel each, BLOCK of them at a time (order (U), costs in that order (U))."""
    inverse_CC, weight_OC, effect_OO = (
        torch.linalg.inv(spread_CC.double()),
        weight_OC.double().clone(),
        effect_OO.double(),
    )
    sensitivity_C = (weight_OC * (effect_OO @ weight_OC)).sum(0)
    there_C = torch.ones_like(sensitivity_C, dtype=torch.bool)
    order, paid = list[Tensor](), list[float]()
    while left := int(there_C.sum()):
        cost_C = (sensitivity_C / inverse_CC.diagonal()).masked_fill(~there_C, torch.inf)
        candidate_D = cost_C.topk(min(CANDIDATES, left), largest=False).indices
        weight_OD = weight_OC[:, candidate_D]
        cross_DD, inverse_DD = weight_OD.T @ effect_OO @ weight_OD, inverse_CC[candidate_D][:, candidate_D]
        chosen, cost_B = _cheapest(cross_DD, inverse_DD, min(BLOCK, left))
        gone_B = candidate_D[torch.tensor(chosen, device=candidate_D.device)]
        there_C[gone_B] = False
        order.append(gone_B)
        paid += cost_B
        across_BC = inverse_CC[gone_B]
        share_BC = torch.linalg.solve(across_BC[:, gone_B], across_BC).masked_fill(~there_C, 0)
        gone_OB = weight_OC[:, gone_B]
        pull_BC = (effect_OO @ gone_OB).T @ weight_OC  # w_b^T S w_c
        sensitivity_C += (share_BC * (pull_BC[:, gone_B] @ share_BC - 2 * pull_BC)).sum(0)
        weight_OC.addmm_(gone_OB, share_BC, alpha=-1)
        inverse_CC.addmm_(across_BC.T, share_BC, alpha=-1)
    return torch.cat(order).cpu(), _positive(paid)


def _cheapest(cross_DD: Tensor, inverse_DD: Tensor, count: int) -> tuple[list[int], list[float]]:
    """`count` of the candidates, one after the other, each time the cheapest, with its cost.

    `cross_DD` is W_D^T S W_D. When i goes, w_j becomes w_j - w_i s_j with s = (G^-1)_i / (G^-1)_ii.
    """
    cross_DD, inverse_DD = cross_DD.cpu(), inverse_DD.cpu()
    there_D = torch.ones(len(cross_DD), dtype=torch.bool)
    chosen, paid = list[int](), list[float]()
    for _ in range(count):
        cost_D = (cross_DD.diagonal() / inverse_DD.diagonal()).masked_fill(~there_D, torch.inf)
        unit = int(cost_D.argmin())
        chosen.append(unit)
        paid.append(float(cost_D[unit]))
        there_D[unit] = False
        share_D = (inverse_DD[unit] / inverse_DD[unit, unit]).masked_fill(~there_D, 0)
        mixed_DD = share_D.outer(cross_DD[unit])
        cross_DD = cross_DD - mixed_DD - mixed_DD.T + cross_DD[unit, unit] * share_D.outer(share_D)
        inverse_DD = inverse_DD - inverse_DD[unit].outer(share_D)
    return chosen, paid


def _blocks(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Units of `size` channels, one at a time: tr(S W_B ((G^-1)_BB)^-1 W_B^T)."""
    inverse_LL, weight_OL, effect_OO = torch.linalg.inv(spread_CC.double()), weight_OC.double(), effect_OO.double()
    left, order, paid = list(range(weight_OC.shape[1] // size)), [], []
    while left:
        cost = [
            _block_cost(weight_OL, inverse_LL, effect_OO, slice(n * size, (n + 1) * size)) for n in range(len(left))
        ]
        cheapest = min(range(len(left)), key=cost.__getitem__)
        paid.append(cost[cheapest])
        channels_L = torch.arange(len(left) * size, device=weight_OC.device)
        goes_L = channels_L // size == cheapest
        weight_OL, inverse_LL = _without(weight_OL, inverse_LL, channels_L[goes_L], channels_L[~goes_L])
        order.append(left.pop(cheapest))
    return torch.tensor(order), _positive(paid)


def _block_cost(weight_OL: Tensor, inverse_LL: Tensor, effect_OO: Tensor, channels: slice) -> float:
    weight_OB = weight_OL[:, channels]
    made_up_BO = torch.linalg.solve(inverse_LL[channels, channels], weight_OB.T)
    return float((effect_OO * (weight_OB @ made_up_BO)).sum())


def _without(weight_OL: Tensor, inverse_LL: Tensor, gone_B: Tensor, stay_K: Tensor) -> tuple[Tensor, Tensor]:
    """W and G^-1 of the channels that stay, when those of `gone_B` are gone and made up for."""
    across_BK = inverse_LL[gone_B][:, stay_K]
    share_BK = torch.linalg.solve(inverse_LL[gone_B][:, gone_B], across_BK)
    weight_OK = weight_OL[:, stay_K] - weight_OL[:, gone_B] @ share_BK
    return weight_OK, inverse_LL[stay_K][:, stay_K] - across_BK.T @ share_BK


def _positive(paid: list[float]) -> Tensor:
    """Costs in float64; rounding may leave one that is nothing below zero (U)."""
    return torch.tensor(paid, dtype=torch.float64).clamp_min(torch.finfo(torch.float32).tiny)
