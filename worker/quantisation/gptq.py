"""GPTQ: rounds a weight matrix so that its outputs on calibration rows change little (Frantar et al. 2022, arXiv
2210.17323).

Columns are rounded one after the other. What the rounding of a column changes in the outputs is compensated by the
columns that are not rounded yet, by the inverse of the Hessian H = X X^T of the squared error of a row's outputs.

Shape suffixes: O outputs, I inputs of a linear module, B inputs of a block.
"""

import torch
from torch import Tensor

from worker.quantisation.weights import QuantisedWeight, in_groups, least_and_most

DAMPING = 0.01  # of the mean of the Hessian's diagonal, which is added to it
BLOCK = 128  # columns whose changes are added to the columns behind them at once


def gptq(weight_OI: Tensor, gram_II: Tensor, scale_OG: Tensor, bits: int) -> QuantisedWeight:
    """Round the weights for inputs with the given sums of products over tokens.

    The scales are those of the groups in their own order. Columns are rounded in the order of their inputs' power, the
    strongest first, so that most columns are left to compensate the errors that matter most.
    """
    order_I = gram_II.diagonal().argsort(descending=True)
    factor_II = _inverse_factor(gram_II[order_I][:, order_I])
    rest_OI = weight_OI.float()[:, order_I]
    wide_OI = in_groups(torch.ones_like(rest_OI), scale_OG) * scale_OG.float().unsqueeze(2)
    wide_OI = wide_OI.flatten(1)[:, order_I]
    value_OI = torch.zeros_like(rest_OI)
    for start in range(0, rest_OI.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, rest_OI.shape[1]))
        value_OI[:, block], error_OB = _round_block(
            rest_OI[:, block].clone(), wide_OI[:, block], factor_II[block, block], bits
        )
        rest_OI[:, block.stop :] -= error_OB @ factor_II[block, block.stop :]
    return QuantisedWeight(value_OI[:, order_I.argsort()].to(torch.int8), scale_OG)


def _round_block(rest_OB: Tensor, scale_OB: Tensor, factor_BB: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(whole numbers, errors divided by the factor's diagonal) of the columns of a block."""
    value_OB, error_OB = torch.zeros_like(rest_OB), torch.zeros_like(rest_OB)
    for column in range(rest_OB.shape[1]):
        value_O = (rest_OB[:, column] / scale_OB[:, column]).round().clamp(*least_and_most(bits))
        error_O = (rest_OB[:, column] - value_O * scale_OB[:, column]) / factor_BB[column, column]
        rest_OB[:, column:] -= error_O.unsqueeze(1) * factor_BB[column, column:]
        value_OB[:, column], error_OB[:, column] = value_O, error_O
    return value_OB, error_OB


def _inverse_factor(gram_II: Tensor) -> Tensor:
    """The upper triangular U with U^T U = H^-1 of the damped Hessian, float32."""
    hessian_II = gram_II.double()
    power = hessian_II.diagonal().mean()
    hessian_II.diagonal().add_(DAMPING * power if power > 0 else 1.0)
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(hessian_II))
    factor_II: Tensor = torch.linalg.cholesky(inverse_II, upper=True)
    return factor_II.float()
