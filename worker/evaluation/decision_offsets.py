"""Label offsets where several labels may be right: one number for each label, added to the output of its class.

A label is given where its output z and its offset b add up to more than 0. With the outputs z_E of calibration rows and
whether the label is right y_E, the offset minimises

    mean_E[ -log P(y_E) ] + PENALTY / E * b^2,  P(right) = sigmoid(z_E + b),

which is the logistic regression on z with its slope fixed at one, and the penalty of `label_offsets`. The derivative

    mean_E[ sigmoid(z_E + b) ] - mean_E[ y_E ] + 2 PENALTY / E * b

rises with b. Its first two terms differ by at most 1, so that it is zero for some b in [-E, E] (PENALTY 1/2).

Shape suffixes: E examples, L labels.
"""

import torch
from torch import Tensor

from worker.evaluation.label_offsets import PENALTY

HALVINGS = 64


def fit(output_EL: Tensor, target_EL: Tensor) -> Tensor:
    """The offsets (L), float64, by bisection."""
    output_EL, target_EL, count = output_EL.double(), target_EL.double(), len(output_EL)
    high_L = torch.full_like(output_EL[0], count / (2 * PENALTY))
    low_L = -high_L
    for _ in range(HALVINGS):
        middle_L = (low_L + high_L) / 2
        slope_L = (output_EL + middle_L).sigmoid().mean(dim=0) - target_EL.mean(dim=0) + 2 * PENALTY / count * middle_L
        low_L, high_L = torch.where(slope_L < 0, middle_L, low_L), torch.where(slope_L < 0, high_L, middle_L)
    return (low_L + high_L) / 2
