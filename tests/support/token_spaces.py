"""Small random embedding tables, whose mechanisms can be computed exactly."""

import numpy as np
from numpy.typing import NDArray

from service.privacy.token_space import TokenSpace

VOCABULARY = 10
RESERVED = 3  # a token that is no ordinary text
EVERY_TOKEN = np.arange(-1, VOCABULARY + 2)  # those outside of the table included


def token_space(dimensions: int = 4, seed: int = 0) -> TokenSpace:
    """A table of random embeddings; one token is reserved, and the embedding of another is zero."""
    generator = np.random.default_rng(seed)
    embedding_VD: NDArray[np.float32] = generator.normal(size=(VOCABULARY, dimensions)).astype(np.float32)
    embedding_VD[5] = 0
    usable_V = np.ones(VOCABULARY, dtype=np.bool_)
    usable_V[RESERVED] = False
    return TokenSpace.of(embedding_VD, usable_V)


def chi_square(observed: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Pearson's statistic of counts, divided by its number of degrees of freedom: near 1 if they are as expected."""
    likely = expected > 5
    return float((np.square(observed - expected)[likely] / expected[likely]).sum() / max(likely.sum() - 1, 1))
