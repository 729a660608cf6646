"""How strongly a fit is held to the old weights.

Let G = E[h h^T] be the second moments of K input channels over N tokens, w the change of the weights that the best fit
of one output makes, and s^2 the mean square that it leaves. Ridge regression towards the old weights is best, averaged
over directions, with r = K s^2 / (N |w|^2) (Hoerl, Kennard and Baldwin, Communications in Statistics 4, 1975). Where
E|w h|^2 is about |w|^2 mean diag G, and the fit explains about as much as it leaves, r is K / N * mean diag G. With few
rows this keeps the weights near the old ones instead of fitting them to the words of those rows.

Shape suffixes: K input channels that stay, O output channels.
"""

import torch
from torch import Tensor


def share(inputs: int, tokens: int, least: float) -> float:
    """r as a share of the mean of G's diagonal: K / N, and at least `least`."""
    return max(least, inputs / max(tokens, 1))


def solve(gram_KK: Tensor, cross_OK: Tensor, prior_OK: Tensor, strength: float) -> Tensor:
    """argmin over W of E|t - W h|^2 + r |W - P|^2 = (C + r P)(G + r I)^-1, in float64 (O, K).

    G = E[h h^T], C = E[t h^T], P the prior, and r = `strength` times the mean of G's diagonal: directions that the rows
    do not determine stay at the prior instead of near zero.
    """
    r = strength * _scale(gram_KK)
    return _divided(cross_OK + r * prior_OK, gram_KK, r)


def change(gram_KK: Tensor, error_OK: Tensor, strength: float) -> Tensor:
    """W - P of `solve`, from what the prior leaves: with E = E[(t - P h) h^T] = C - P G it is E (G + r I)^-1 (O, K)."""
    return _divided(error_OK, gram_KK, strength * _scale(gram_KK))


def _scale(gram_KK: Tensor) -> float:
    """The mean of the diagonal; 1 for inputs that are all zero, which determine no direction."""
    return float(gram_KK.diagonal().mean() or 1.0)


def _divided(matrix_OK: Tensor, gram_KK: Tensor, r: float) -> Tensor:
    """A (G + r I)^-1 (O, K)."""
    ridged_KK = gram_KK.clone()
    ridged_KK.diagonal().add_(r)
    return torch.cholesky_solve(matrix_OK.T, torch.linalg.cholesky(ridged_KK)).T
