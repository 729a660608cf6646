"""Embeddings of texts: the hidden states of an encoder, pooled over the tokens, and their random projections.

Embeddings are compared by their cosine, which their direction alone decides. The objective `projection` is therefore
m = r · e / |e| for the embedding e of a text and a direction r whose components are independent and standard normal.
Its gradient is r J, with J the Jacobian of e / |e|, and E[(r J h)²] = |J h|²: one backward pass estimates without bias
how far a change h of an activation moves the direction of the embedding (Hutchinson 1990,
doi 10.1080/03610919008812866). The part of r along e has no effect, because |e| is divided by.

Shape suffixes: B rows of a batch, each with one text, T positions, D hidden size, E examples.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LAST, CLS, MEAN = "last", "cls", "mean"


def pooled(hidden_BTD: Tensor, mask_BT: Tensor, pooling: str) -> Tensor:
    """The embedding of each row (B, D): the mean of its hidden states, that of its first or that of its last token."""
    if pooling == MEAN:
        mask_BT1 = mask_BT.unsqueeze(2).to(hidden_BTD.dtype)
        return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
    if pooling == CLS:
        return hidden_BTD[:, 0]
    if pooling == LAST:  # the padding is on the right
        return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), mask_BT.sum(1) - 1]
    raise ValueError(f"there is no pooling {pooling!r}")


def embed(model: nn.Module, inputs: Mapping[str, Any], mask_BT: Tensor, pooling: str) -> Tensor:
    """The embedding of each row of a batch, float32 (B, D)."""
    return pooled(model(**inputs).last_hidden_state.float(), mask_BT, pooling)


def directions(index_E: Tensor, texts: int, size: int) -> Tensor:
    """A direction for each of the `texts` texts of each example, standard normal (E * texts, D).

    They depend on the example's index in the data set alone, so that no score depends on batches.
    """
    found = []
    for index in index_E.tolist():
        generator = torch.Generator().manual_seed(index)
        found.append(torch.randn(texts, size, generator=generator))
    return torch.cat(found)


def projection(embedding_BD: Tensor, index_E: Tensor) -> Tensor:
    """The projection of each example's normalised embeddings on their random directions, summed over its texts (E)."""
    texts = len(embedding_BD) // len(index_E)
    direction_BD = directions(index_E, texts, embedding_BD.shape[1]).to(embedding_BD.device)
    projected_B = (nn.functional.normalize(embedding_BD, dim=1) * direction_BD).sum(1)
    return projected_B.view(len(index_E), texts).sum(1)
