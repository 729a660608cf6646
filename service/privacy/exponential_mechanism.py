"""The exponential mechanism over the whole vocabulary: each token is replaced by a candidate that tends to be similar.

    Pr[y | x] = exp(e * u(x, y) / (2 * D)) / sum over all candidates z of exp(e * u(x, z) / (2 * D))

u(x, y) is the similarity of `token_space`, in [0, 1], so that its sensitivity D = max |u(x, y) - u(x', y)| is 1
(McSherry and Talwar, FOCS 2007). The candidates are the same for every x. For any two tokens x and x' the numerator
differs by a factor of at most exp(e / 2), and so does the denominator: Pr[y | x] <= exp(e) * Pr[y | x'], whatever y is.
This is e-local differential privacy of one token.

A token may be replaced by itself. Drawing again in that case would end the guarantee: y would then be impossible for
x = y, and possible for every other x.

Shape suffixes as in `token_space`; N tokens to replace.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.privacy.token_space import TokenSpace
from service.privacy.uniform_numbers import Uniform

SENSITIVITY = 1.0
BLOCK = 128  # tokens whose distributions are in memory together
SAMPLE = 512  # candidates over which `unchanged_share` averages


@dataclass(frozen=True)
class ExponentialMechanism:
    """Replaces tokens, each with the budget `epsilon`."""

    space: TokenSpace
    epsilon: float
    name = "exponential"

    @property
    def local_epsilon(self) -> float:
        """The budget of local differential privacy that one token costs."""
        return self.epsilon

    def replace(self, token_N: NDArray[np.int64], uniform: Uniform) -> NDArray[np.int64]:
        """A candidate in the place of each token (N), independently of the others."""
        replaced_N = np.empty_like(token_N)
        distinct, which_N = np.unique(token_N, return_inverse=True)
        places = _places(which_N, len(distinct))
        for start in range(0, len(distinct), BLOCK):
            probability_BK = self.probabilities(distinct[start : start + BLOCK])
            for row_K, place in zip(probability_BK, places[start : start + BLOCK], strict=True):
                replaced_N[place] = self.space.candidate_K[drawn(row_K, uniform(len(place)))]
        return replaced_N

    def probabilities(self, token_B: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pr[y | x] for each token x and each candidate y (B, K)."""
        return softmax(self.space.similarity(token_B) * (self.epsilon / (2 * SENSITIVITY)))

    def unchanged_share(self) -> float:
        """The probability that a token is replaced by itself, averaged over evenly spaced candidates.

        It depends on the vocabulary alone, not on rows.
        """
        count = len(self.space.candidate_K)
        place_B = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
        unchanged = 0.0
        for start in range(0, len(place_B), BLOCK):
            block_B = place_B[start : start + BLOCK]
            unchanged += float(np.diag(self.probabilities(self.space.candidate_K[block_B])[:, block_B]).sum())
        return unchanged / len(place_B)


def softmax(weight_BK: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(weight), divided by its sum over the last axis."""
    raised_BK = np.exp(weight_BK - weight_BK.max(axis=-1, keepdims=True))
    shares: NDArray[np.float64] = raised_BK / raised_BK.sum(axis=-1, keepdims=True)
    return shares


def drawn(probability_K: NDArray[np.float64], uniform_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index that each uniform number draws from a distribution, by the inverse of its cumulative sums (N)."""
    cumulative_K = probability_K.cumsum()
    index_N: NDArray[np.int64] = np.searchsorted(cumulative_K, uniform_N * cumulative_K[-1], side="right")
    return np.minimum(index_N, len(probability_K) - 1, out=index_N)


def _places(which_N: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """The places at which each of `count` distinct tokens stands."""
    order_N = np.argsort(which_N, kind="stable")
    return np.split(order_N, np.searchsorted(which_N[order_N], np.arange(1, count)))
