import pytest
import torch
from torch import Tensor

from worker.slimming.merging.clusters import cluster, representatives, shares


def similarity_of(*cosines: tuple[int, int, float], experts: int) -> Tensor:
    """Similarities of experts that are orthogonal but for the given pairs."""
    found_EE = torch.eye(experts, dtype=torch.float64)
    for first, second, cosine in cosines:
        found_EE[first, second] = found_EE[second, first] = cosine
    return (1 + found_EE) / 2


def test_experts_with_similar_logits_are_in_one_cluster() -> None:
    similarity_EE = similarity_of((0, 3, 0.98), (1, 4, 0.95), (2, 5, 0.99), experts=6)
    assert cluster(similarity_EE, torch.ones(6), 3).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("count", range(1, 9))
def test_there_are_as_many_clusters_as_asked_for(count: int) -> None:
    logit_NE = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    similarity_EE = (1 + torch.corrcoef(logit_NE.T)) / 2
    cluster_E = cluster(similarity_EE, torch.arange(8.0), count)
    assert cluster_E.unique().tolist() == list(range(count))
    assert torch.equal(cluster_E, cluster(similarity_EE, torch.arange(8.0), count))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("similarity", [0.0, 1.0])
def test_equal_experts_are_split_where_more_clusters_are_asked_for(similarity: float) -> None:
    similarity_EE = torch.full((5, 5), similarity, dtype=torch.float64).fill_diagonal_(1)
    assert cluster(similarity_EE, torch.arange(5.0), 3).unique().tolist() == [0, 1, 2]


def test_the_expert_with_the_highest_score_stands_for_its_cluster() -> None:
    cluster_E, score_E = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0.1, 0.5, 0.3, 0.5, 0.0])
    assert representatives(cluster_E, score_E).tolist() == [2, 1, 4]


def test_shares_follow_the_scores_within_a_cluster() -> None:
    cluster_E, score_E = torch.tensor([0, 1, 0, 1, 2]), torch.tensor([1.0, 0.0, 3.0, 0.0, 0.0])
    assert shares(cluster_E, score_E).tolist() == [0.25, 0.5, 0.75, 0.5, 1.0]
