"""The exponential mechanism among the neighbours of a noisy embedding.

1. Noise: each dimension d of the embedding gets Laplace noise of the scale R_d / (e / 2), where R_d is the largest
   minus the smallest value of that dimension in the table. In the coordinates x_d / R_d all dimensions have the scale
   b = 2 / e.
2. Neighbourhood: the candidates within the distance of the noisy embedding that its own token rarely exceeds. The
   squared length of the noise has the mean 2 D b^2 and the variance 20 D b^4; the radius is two standard deviations
   above. Where no candidate is so near, the nearest one is the neighbourhood. It shrinks as the budget grows.
3. Draw: Pr[y] is proportional to exp((e / 2) * u(x, y) / 2) among these neighbours, as in `exponential_mechanism`.

What follows: step 1 tells two tokens apart by a factor of at most exp((e / 2) * d(x, x')), where d is the sum over the
dimensions of |x_d - x'_d| / R_d. The neighbourhood is computed from its result alone, so that step 3 adds e / 2:

    Pr[y | x] <= exp((e / 2) * d(x, x') + e / 2) * Pr[y | x']

This is metric differential privacy. It is e-local differential privacy only between tokens with d(x, x') <= 1. For any
two tokens d is at most `diameter`, which is in the hundreds for real tables, so that `local_epsilon` is too.

The form that is published as InferDPT (arXiv 2310.12214) uses the neighbours of the embedding without noise, as many as
are nearer than the noisy one. There the candidates depend on the token: given the noise, some replacements are possible
for one token and impossible for another, and no bound of this kind follows. That form is not offered.

Shape suffixes as in `token_space`; N tokens to replace.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.privacy.exponential_mechanism import SENSITIVITY, drawn, softmax
from service.privacy.token_space import TokenSpace
from service.privacy.uniform_numbers import Uniform

BLOCK = 64  # tokens whose distances are in memory together
SAMPLE = 64  # candidates on which `unchanged_share` is estimated
SEED = 0  # of that estimate, which reads no rows


@dataclass(frozen=True)
class AdaptiveNeighbourhood:
    """Replaces tokens; half of `epsilon` goes to the noise and half to the draw."""

    space: TokenSpace
    epsilon: float
    name = "adaptive"

    @property
    def local_epsilon(self) -> float:
        """The budget of local differential privacy that one token costs: between the two most distant tokens."""
        return self.epsilon / 2 * self.diameter + self.epsilon / 2

    @cached_property
    def diameter(self) -> float:
        """A bound on d(x, x') for any two tokens: at most the number of dimensions, and twice the largest radius."""
        radius_V = np.abs(self._scaled_VD[self.space.has_place_V]).sum(axis=1, dtype=np.float64)
        return min(float(self._scaled_VD.shape[1]), 2 * float(radius_V.max()))

    @cached_property
    def _scaled_VD(self) -> NDArray[np.float32]:
        """The embeddings in the coordinates x_d / R_d, with the middle of the range of each dimension at 0."""
        placed = self.space.embedding_VD[self.space.has_place_V]
        low_D, high_D = placed.min(axis=0), placed.max(axis=0)
        range_D = np.where(high_D > low_D, high_D - low_D, 1)
        scaled_VD: NDArray[np.float32] = (self.space.embedding_VD - (low_D + high_D) / 2) / range_D
        return scaled_VD

    @cached_property
    def _candidate_KD(self) -> NDArray[np.float32]:
        return self._scaled_VD[self.space.candidate_K]

    @cached_property
    def _squares_K(self) -> NDArray[np.float32]:
        squares_K: NDArray[np.float32] = np.square(self._candidate_KD).sum(axis=1)
        return squares_K

    @property
    def _radius_squared(self) -> float:
        dimensions, scale = int(self._scaled_VD.shape[1]), 2 / self.epsilon
        return (2 * dimensions + 2 * math.sqrt(20 * dimensions)) * scale**2

    def replace(self, token_N: NDArray[np.int64], uniform: Uniform) -> NDArray[np.int64]:
        """A candidate in the place of each token (N), independently of the others."""
        replaced_N = np.empty_like(token_N)
        for start in range(0, len(token_N), BLOCK):
            token_B = token_N[start : start + BLOCK]
            near_BK = self.neighbourhoods(self._noisy(token_B, uniform))
            weight_BK = self.space.similarity(token_B) * (self.epsilon / (4 * SENSITIVITY))
            probability_BK = softmax(np.where(near_BK, weight_BK, -np.inf))
            uniform_B = uniform(len(token_B))
            index_B = [int(drawn(row_K, uniform_B[i : i + 1])[0]) for i, row_K in enumerate(probability_BK)]
            replaced_N[start : start + BLOCK] = self.space.candidate_K[index_B]
        return replaced_N

    def neighbourhoods(self, noisy_BD: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which candidates are near each noisy embedding, from these alone (B, K)."""
        squares_B1 = np.square(noisy_BD).sum(axis=1, keepdims=True)
        distance_BK = squares_B1 - 2 * noisy_BD @ self._candidate_KD.T + self._squares_K
        near_BK: NDArray[np.bool_] = distance_BK <= self._radius_squared
        nearest_B = distance_BK.argmin(axis=1)
        near_BK[np.arange(len(near_BK)), nearest_B] = True
        return near_BK

    def unchanged_share(self) -> float:
        """The share of some evenly spaced candidates that one run replaces by themselves. It depends on no rows."""
        count = len(self.space.candidate_K)
        token_B = self.space.candidate_K[np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))]
        uniform = np.random.Generator(np.random.PCG64(SEED)).random
        return float((self.replace(token_B, uniform) == token_B).mean())

    def _noisy(self, token_B: NDArray[np.int64], uniform: Uniform) -> NDArray[np.float32]:
        """The scaled embeddings with noise (B, D); a token without a place is at 0, the middle of the table."""
        placed_B = self.space.has_place(token_B)
        scaled_BD = np.where(placed_B[:, None], self._scaled_VD[np.where(placed_B, token_B, 0)], 0)
        noise = laplace(uniform(scaled_BD.size), 2 / self.epsilon).reshape(scaled_BD.shape)
        return (scaled_BD + noise).astype(np.float32)


def laplace(uniform_N: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Laplace noise of a scale, by the inverse of its distribution function."""
    centred_N = uniform_N - 0.5 + 2.0**-54  # never exactly at the end, where the logarithm has no value
    noise_N: NDArray[np.float64] = -scale * np.sign(centred_N) * np.log1p(-2 * np.abs(centred_N))
    return noise_N
