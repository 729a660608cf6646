"""The order of an expert's neurons in which it resembles another expert most.

The output of an expert does not depend on the order of its neurons, but a mean of two experts does. One permutation
holds for the rows of gate and up projection and the columns of the down projection.

Shape suffixes: I neurons of an expert, D hidden size.
"""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Expert(NamedTuple):
    """The matrices of one expert."""

    gate_ID: Tensor
    up_ID: Tensor
    down_DI: Tensor

    def in_order(self, order_I: Tensor) -> "Expert":
        """The expert whose neuron k is neuron `order_I[k]` of this one."""
        return Expert(self.gate_ID[order_I], self.up_ID[order_I], self.down_DI[:, order_I])


def aligned(expert: Expert, reference: Expert) -> Expert:
    """The expert with its neurons in the order that maximises the inner product of its matrices with the reference's.

    It is the assignment problem with the gain <g_a, g'_b> + <u_a, u'_b> + <d_a, d'_b> for neuron b at place a (UNCURL,
    equation 4, with a term for the gate).
    """
    gain_II = sum(
        (ours @ theirs.T)
        for ours, theirs in (
            (reference.gate_ID, expert.gate_ID),
            (reference.up_ID, expert.up_ID),
            (reference.down_DI.T, expert.down_DI.T),
        )
    )
    _, order = linear_sum_assignment(torch.as_tensor(gain_II).cpu().numpy(), maximize=True)
    return expert.in_order(torch.from_numpy(order).to(expert.gate_ID.device))
