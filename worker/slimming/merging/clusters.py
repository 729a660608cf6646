"""Clusters of similar experts, and the expert of each in whose place the merged one stands.

Shape suffixes: E experts of a layer, K clusters, one for each expert that stays.
"""

import torch
from sklearn.cluster import SpectralClustering
from torch import Tensor

LEAST = 1e-12  # similarity of experts with opposite logits: a graph without edges has no eigenvectors


def cluster(similarity_EE: Tensor, score_E: Tensor, count: int) -> Tensor:
    """The number of the cluster of every expert, int64 (E): `count` clusters, none of them empty.

    Spectral clustering of the graph of similarities with its normalised Laplacian (Ng, Jordan and Weiss, NIPS 2001).
    Where this finds fewer clusters, because experts are equal, the second best expert of the largest cluster becomes a
    cluster of its own.
    """
    experts = len(score_E)
    if count == experts:
        return torch.arange(experts)
    found_E = torch.zeros(experts, dtype=torch.int64)
    if count > 1:
        method = SpectralClustering(count, affinity="precomputed", assign_labels="kmeans", random_state=0)
        found_E = torch.from_numpy(method.fit_predict(similarity_EE.clamp_min(LEAST).numpy())).long()
    while len(found_E.unique()) < count:
        largest = int(found_E.bincount().argmax())
        members = (found_E == largest).nonzero().flatten()
        found_E[members[score_E[members].argsort(descending=True, stable=True)[1]]] = int(found_E.max()) + 1
    return _in_order(found_E)


def _in_order(cluster_E: Tensor) -> Tensor:
    """The clusters numbered from 0 in the order of their first expert."""
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(number, len(numbers)) for number in cluster_E.tolist()])


def representatives(cluster_E: Tensor, score_E: Tensor) -> Tensor:
    """The expert with the highest score of each cluster, the first of equal ones (K)."""
    count = int(cluster_E.max()) + 1
    return torch.stack([score_E.masked_fill(cluster_E != number, -torch.inf).argmax() for number in range(count)])


def shares(cluster_E: Tensor, score_E: Tensor) -> Tensor:
    """The share of every expert in its cluster: its score by their sum, or equal shares where that is zero (E)."""
    total_E = torch.zeros_like(score_E).index_add_(0, cluster_E, score_E)[cluster_E]
    count_E = cluster_E.bincount()[cluster_E]
    return torch.where(total_E > 0, score_E / total_E, 1 / count_E)
