"""The optimal brain surgeon: removes the inputs of a linear module one by one, always the one with the lowest cost.

The module computes y = W h. A change dW changes the objective, to first order, by g^T dW h for a token with the
gradient g = dJ/dy. If g and h are independent, the mean square of this is tr(S dW G dW^T) with G = E[h h^T] and
S = E[g g^T] (the Kronecker factors of Martens and Grosse, arXiv 1503.05671). Among all weights without the unit i, the
change is least for W - w_i (G^-1)_i / (G^-1)_ii. It is the cost of the unit:

    (w_i^T S w_i) / (G^-1)_ii

(Hassibi and Stork, NIPS 1992): the mean square of dJ/dh_i, times the part of h_i that is not a linear function of the
other units. Where that is all of h_i, the cost is the second moment of the attribution h_i * dJ/dh_i.

Shape suffixes: U units, C channels (C = U * size), O outputs, L channels that are left, D candidates for removal,
B channels that are removed, K channels that stay.
"""

import math

import torch
from torch import Tensor

BLOCK = 64  # neurons that are removed before the costs of all are computed again
CANDIDATES = 128  # the cheapest of all, among which the costs are exact after each removal of the block
COMPACT = 0.75  # share of channels that is left when the matrices are reduced to those
RISE = 1 + 1e-6  # the least factor between the costs of consecutive units, so that no two are equal


def costs(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, size: int) -> Tensor:
    """The cost of each unit at its removal: the mean square change of the objective (U), float64.

    `spread_CC` is G, float64, and must be positive definite; `effect_OO` is S. Costs rise in the order of removal, so
    that the units above any threshold are those that are left at some point of the removal. Computed in float32, which
    most devices compute at twice to 64 times the speed, unless G is so near to singular that it needs float64.
    """
    if size == 1:
        order_U, cost_U = _neurons(weight_OC, spread_CC, effect_OO)
    else:
        order_U, cost_U = _blocks(weight_OC, spread_CC, effect_OO, size)
    return torch.empty_like(cost_U).index_copy_(0, order_U, _rising(cost_U))


def _rising(cost_U: Tensor) -> Tensor:
    """The smallest costs that are not below these and rise by the factor RISE at every step (U)."""
    slope_U = torch.arange(len(cost_U), dtype=torch.float64) * math.log(RISE)
    return ((cost_U.log() - slope_U).cummax(0).values + slope_U).exp()


def _neurons(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor) -> tuple[Tensor, Tensor]:
    """Remove units of one channel, BLOCK of them at a time: the order (U), and the costs in that order (U)."""
    inverse_CC = _inverse(spread_CC)
    left = _Neurons(weight_OC.to(inverse_CC.dtype, copy=True), inverse_CC, effect_OO.to(inverse_CC.dtype))
    order, removal_costs = list[Tensor](), list[float]()
    while count := int(left.present_L.sum()):
        if count <= COMPACT * len(left.present_L):
            left.compact()
        candidate_D = left.costs().topk(min(CANDIDATES, count), largest=False).indices
        chosen, cost_B = _cheapest(*left.among(candidate_D), min(BLOCK, count))
        gone_B = candidate_D[torch.tensor(chosen, device=candidate_D.device)]
        order.append(left.unit_L[gone_B])
        removal_costs += cost_B
        left.remove(gone_B)
    return torch.cat(order).cpu(), _positive(removal_costs)


def _inverse(spread_CC: Tensor) -> Tensor:
    """The inverse of a positive definite matrix, by Cholesky: half the work of LU, and exactly symmetric.

    In float32 if its factor exists there, else in float64.
    """
    factor_CC, failed_at = torch.linalg.cholesky_ex(spread_CC.float())
    if failed_at:
        factor_CC = torch.linalg.cholesky(spread_CC)
    return torch.cholesky_inverse(factor_CC)


class _Neurons:
    """W, G^-1 and the numerators of the costs of the neurons that are left.

    Neurons that were removed since the last `compact` are still in the matrices, and masked by `present_L`.
    """

    def __init__(self, weight_OL: Tensor, inverse_LL: Tensor, effect_OO: Tensor) -> None:
        self.weight_OL, self.inverse_LL, self.effect_OO = weight_OL, inverse_LL, effect_OO
        self.sensitivity_L = (weight_OL * (effect_OO @ weight_OL)).sum(0)  # w_i^T S w_i
        self.unit_L = torch.arange(len(inverse_LL), device=inverse_LL.device)
        self.present_L = torch.ones_like(self.unit_L, dtype=torch.bool)

    def compact(self) -> None:
        """Drop the removed neurons from the matrices, which makes every later removal cheaper."""
        present_L = self.present_L
        self.weight_OL, self.inverse_LL = self.weight_OL[:, present_L], self.inverse_LL[present_L][:, present_L]
        self.sensitivity_L, self.unit_L, self.present_L = (
            self.sensitivity_L[present_L],
            self.unit_L[present_L],
            present_L[present_L],
        )

    def costs(self) -> Tensor:
        """The cost of each neuron as the next one; infinite if it is removed already (L)."""
        return (self.sensitivity_L / self.inverse_LL.diagonal()).masked_fill(~self.present_L, torch.inf)

    def among(self, candidate_D: Tensor) -> tuple[Tensor, Tensor]:
        """W^T S W and G^-1, restricted to the candidates (D, D)."""
        weight_OD = self.weight_OL[:, candidate_D]
        return weight_OD.T @ self.effect_OO @ weight_OD, self.inverse_LL[candidate_D][:, candidate_D]

    def remove(self, gone_B: Tensor) -> None:
        """Remove neurons, and change the weights of the others so that the objective changes least."""
        self.present_L[gone_B] = False
        across_BL, gone_OB = self.inverse_LL[gone_B], self.weight_OL[:, gone_B]
        share_BL = torch.linalg.solve(across_BL[:, gone_B], across_BL).masked_fill(~self.present_L, 0)
        pull_BL = (self.effect_OO @ gone_OB).T @ self.weight_OL  # w_b^T S w_l
        self.sensitivity_L += (share_BL * (pull_BL[:, gone_B] @ share_BL - 2 * pull_BL)).sum(0)
        self.weight_OL.addmm_(gone_OB, share_BL, alpha=-1)
        self.inverse_LL.addmm_(across_BL.T, share_BL, alpha=-1)


def _cheapest(cross_DD: Tensor, inverse_DD: Tensor, count: int) -> tuple[list[int], list[float]]:
    """The first `count` candidates to remove, always the cheapest that is left, and their costs.

    `cross_DD` is W_D^T S W_D. The removal of i changes w_j to w_j - w_i s_j with s = (G^-1)_i / (G^-1)_ii.
    """
    # Both are changed in place below; the caller does not use them again.
    cross_DD, inverse_DD = cross_DD.cpu(), inverse_DD.cpu()
    present_D = torch.ones(len(cross_DD), dtype=torch.bool)
    chosen, removal_costs = list[int](), list[float]()
    for _ in range(count):
        cost_D = (cross_DD.diagonal() / inverse_DD.diagonal()).masked_fill(~present_D, torch.inf)
        unit = int(cost_D.argmin())
        chosen.append(unit)
        removal_costs.append(float(cost_D[unit]))
        present_D[unit] = False
        share_D = (inverse_DD[unit] / inverse_DD[unit, unit]).masked_fill(~present_D, 0)
        pull_D = cross_DD[unit] - cross_DD[unit, unit] / 2 * share_D
        cross_DD.addr_(share_D, pull_D, alpha=-1).addr_(pull_D, share_D, alpha=-1)
        inverse_DD.addr_(inverse_DD[unit].clone(), share_D, alpha=-1)
    return chosen, removal_costs


def _blocks(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Remove units of `size` channels one at a time; the cost of one is tr(W_B^T S W_B ((G^-1)_BB)^-1)."""
    inverse_LL = _inverse(spread_CC)
    weight_OC, effect_OO = weight_OC.to(inverse_LL.dtype), effect_OO.to(inverse_LL.dtype)
    cross_LL = weight_OC.T @ effect_OO @ weight_OC
    left, order, removal_costs = list(range(weight_OC.shape[1] // size)), [], []
    while left:
        cost_U = _block_costs(cross_LL, inverse_LL, size)
        cheapest = int(cost_U.argmin())
        removal_costs.append(float(cost_U[cheapest]))
        goes_L = torch.arange(len(left) * size, device=weight_OC.device) // size == cheapest
        cross_LL, inverse_LL = _without(cross_LL, inverse_LL, goes_L)
        order.append(left.pop(cheapest))
    return torch.tensor(order), _positive(removal_costs)


def _block_costs(cross_LL: Tensor, inverse_LL: Tensor, size: int) -> Tensor:
    """The cost of each unit that is left (U).

    Units are computed one at a time, since on several threads torch factorises a batch of large matrices wrongly
    (pytorch issue 142815).
    """
    blocks = (slice(start, start + size) for start in range(0, len(cross_LL), size))
    made_up = [torch.linalg.solve(inverse_LL[block, block], cross_LL[block, block]).trace() for block in blocks]
    return torch.stack(made_up)


def _without(cross_LL: Tensor, inverse_LL: Tensor, goes_L: Tensor) -> tuple[Tensor, Tensor]:
    """W^T S W and G^-1 of the channels that stay, after the removal of the others has changed their weights."""
    across_BK, pull_BK = inverse_LL[goes_L][:, ~goes_L], cross_LL[goes_L][:, ~goes_L]
    share_BK = torch.linalg.solve(inverse_LL[goes_L][:, goes_L], across_BK)
    mixed_KK = (pull_BK - cross_LL[goes_L][:, goes_L] @ share_BK / 2).T @ share_BK
    cross_KK = cross_LL[~goes_L][:, ~goes_L] - mixed_KK - mixed_KK.T
    return cross_KK, inverse_LL[~goes_L][:, ~goes_L] - across_BK.T @ share_BK


def _positive(removal_costs: list[float]) -> Tensor:
    """Costs in float64, raised to the smallest positive float32 where rounding made them zero or negative (U)."""
    return torch.tensor(removal_costs, dtype=torch.float64).clamp_min(torch.finfo(torch.float32).tiny)
