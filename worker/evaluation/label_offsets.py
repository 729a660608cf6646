"""Label offsets: one number for each label that is added to its log-probability before the most likely label is taken.

A language model prefers some answer words to others, and cutting changes these preferences before the model loses the
task. With the scores s_EL = log P(label | prompt) of calibration rows and their right labels y, the offsets b minimise

    mean_E[ -log softmax(s_EL + b_L)[y_E] ] + PENALTY / E * sum_L b_L^2,

which is the multinomial logistic regression on s with its slope fixed at one. The penalty is that of a normal prior
with mean 0 and standard deviation 1 / sqrt(2 PENALTY) = 1 nat: it keeps an offset near zero where few rows, or none,
speak for another value. On other train rows 1 to 4 are likelier by a little (benchmarks/RESULTS.md), and take back less
of a large shift. The minimum is unique and has sum_L b_L = 0. Only differences between labels matter, so that it is
given with the first label's offset 0, as L - 1 free numbers.

Shape suffixes: E examples, L labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.data.sampling import stratified_order

PENALTY = 0.5
MAX_ROWS = 1024  # calibration rows that offsets are fitted on; of more, a part with the same shares of the labels
MAX_STEPS = 100
TOLERANCE = 1e-9  # of the gradient


def fit(score_EL: Tensor, answer_E: Tensor) -> Tensor:
    """The offsets (L), float64, by Newton's method with step halving."""
    score_EL, count = score_EL.double(), len(answer_E)
    frequency_L = torch.bincount(answer_E, minlength=score_EL.shape[1]).double() / count
    offset_L = torch.zeros_like(frequency_L)
    for _ in range(MAX_STEPS):
        probability_EL = (score_EL + offset_L).softmax(dim=1)
        gradient_L = probability_EL.mean(dim=0) - frequency_L + 2 * PENALTY / count * offset_L
        if gradient_L.abs().max() < TOLERANCE:
            break
        hessian_LL = probability_EL.mean(dim=0).diag() - probability_EL.T @ probability_EL / count
        hessian_LL.diagonal().add_(2 * PENALTY / count)
        step_L = torch.linalg.solve(hessian_LL, gradient_L)
        offset_L = _descend(score_EL, answer_E, offset_L, step_L, float(gradient_L @ step_L))
    return offset_L - offset_L[0]


def loss(score_EL: Tensor, answer_E: Tensor, offset_L: Tensor) -> float:
    """What `fit` minimises."""
    moved_EL = score_EL.double() + offset_L
    likelihood_E = moved_EL.log_softmax(dim=1).gather(1, answer_E.unsqueeze(1))
    return float(PENALTY / len(answer_E) * offset_L.square().sum() - likelihood_E.mean())


def _descend(score_EL: Tensor, answer_E: Tensor, offset_L: Tensor, step_L: Tensor, slope: float) -> Tensor:
    """The offsets after the longest of the steps 1, 1/2, 1/4, ... that lowers the loss enough (Armijo's rule)."""
    before, length = loss(score_EL, answer_E, offset_L), 1.0
    while loss(score_EL, answer_E, offset_L - length * step_L) > before - 1e-4 * length * slope and length > 1e-6:
        length /= 2
    return offset_L - length * step_L


def rows_to_fit(answers: Sequence[object]) -> list[int]:
    """The calibration rows that offsets are fitted on, given the right label or labels of each row."""
    return sorted(stratified_order(answers, seed=0)[:MAX_ROWS])
