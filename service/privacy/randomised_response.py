"""Randomised response: a label stays, or becomes another one, with probabilities that nobody has to keep secret.

With k labels and a budget e, a label stays with the probability exp(e) / (exp(e) + k - 1), and otherwise becomes each
of the others with the same probability 1 / (exp(e) + k - 1) (Warner, 1965; for k labels Kairouz, Bonawitz and Ramage,
arXiv 1602.07387). Whatever two labels are compared, no answer is more than exp(e) times as probable with one of them as
with the other: it is e-locally differentially private.

Shape suffixes: N answers.
"""

import math

import numpy as np
from numpy.typing import NDArray

from service.privacy.uniform_numbers import Uniform


def kept_probability(epsilon: float, count: int) -> float:
    """The probability with which one of `count` labels stays, count >= 2."""
    return 1 / (1 + (count - 1) * math.exp(-epsilon))


def respond(label_N: NDArray[np.int64], count: int, epsilon: float, uniform: Uniform) -> NDArray[np.int64]:
    """An answer in the place of each label (N); labels are numbers from 0 to `count` - 1, count >= 2."""
    stays_N = uniform(len(label_N)) < kept_probability(epsilon, count)
    step_N = 1 + (uniform(len(label_N)) * (count - 1)).astype(np.int64)  # 1 to count - 1
    return np.where(stays_N, label_N, (label_N + step_N) % count)
