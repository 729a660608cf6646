"""How strongly a fit is held to the old weights.

Let G = E[h h^T] be the second moments of K input channels over N tokens, w the change of the weights that the best fit
of one output makes, and s^2 the mean square that it leaves. Ridge regression towards the old weights is best, averaged
over directions, with r = K s^2 / (N |w|^2) (Hoerl, Kennard and Baldwin, Communications in Statistics 4, 1975). Where
E|w h|^2 is about |w|^2 mean diag G, and the fit explains about as much as it leaves, r is K / N * mean diag G. With few
rows this keeps the weights near the old ones instead of fitting them to the words of those rows.
"""


def share(inputs: int, tokens: int, least: float) -> float:
    """r as a share of the mean of G's diagonal: K / N, and at least `least`."""
    return max(least, inputs / max(tokens, 1))
