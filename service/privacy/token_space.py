"""The tokens of a model as points: what stands for a token has to be near it.

The similarity of two tokens is the cosine of their embeddings, after the mean embedding of the table is taken away, and
0 where that is negative. Without the first step most similarities are alike, because tokens of the same frequency share
a direction (Mu and Viswanath, arXiv 1702.01417); without the second a token would be told apart from its opposite, and
half of the range of the similarity would be spent on that. A similarity is in [0, 1], and depends on nothing private.

Shape suffixes: V tokens of the embedding table, D dimensions, K candidates, B tokens of a block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenSpace:
    """The embeddings of a table, and the candidates: the tokens that can stand for others.

    A token without a place, such as one outside of the table, is similar to none, and is never a candidate.
    """

    embedding_VD: NDArray[np.float32]
    has_place_V: NDArray[np.bool_]
    candidate_K: NDArray[np.int64]
    _unit_VD: NDArray[np.float32]

    @classmethod
    def of(cls, embedding_VD: NDArray[np.float32], usable_V: NDArray[np.bool_]) -> "TokenSpace":
        """The space of a table, of whose tokens the usable ones are candidates. A row of zeros has no place."""
        has_place_V = usable_V & embedding_VD.any(axis=1)
        mean_D = embedding_VD[has_place_V].sum(axis=0) / max(has_place_V.sum(), 1)
        centred_VD = (embedding_VD - mean_D).astype(np.float32)
        norm_V1 = np.linalg.norm(centred_VD, axis=1, keepdims=True)
        unit_VD = np.divide(centred_VD, norm_V1, out=np.zeros_like(centred_VD), where=norm_V1 > 0)
        return cls(embedding_VD, has_place_V, np.flatnonzero(has_place_V), unit_VD)

    def similarity(self, token_B: NDArray[np.int64]) -> NDArray[np.float64]:
        """The similarity of each token to each candidate (B, K); 0 for tokens without a place."""
        placed_B = self.has_place(token_B)
        cosine_BK = (self._unit_VD[np.where(placed_B, token_B, 0)] @ self._unit_VD.T)[:, self.candidate_K]
        similarity_BK: NDArray[np.float64] = np.clip(cosine_BK, 0, 1).astype(np.float64)
        similarity_BK[~placed_B] = 0
        return similarity_BK

    def has_place(self, token_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each token is in the table and usable (B)."""
        inside_B = (token_B >= 0) & (token_B < len(self.has_place_V))
        return inside_B & self.has_place_V[np.where(inside_B, token_B, 0)]
