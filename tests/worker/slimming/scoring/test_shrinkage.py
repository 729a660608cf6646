"""Shrinkage of second moments, by their distance from those of the distribution that the tokens come from."""

import pytest
import torch
from torch import Tensor

from worker.slimming.scoring.optimal_brain_surgeon import costs
from worker.slimming.scoring.shrinkage import shrunk

CHANNELS = 48


def mixing(seed: int) -> Tensor:
    """Channels of different size, each of which is partly a function of others (C, C)."""
    torch.manual_seed(seed)
    size_C1 = torch.rand(CHANNELS, 1, dtype=torch.float64) + 0.2
    across_CC = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64) / CHANNELS**0.5
    mixing_CC: Tensor = size_C1 * (torch.eye(CHANNELS, dtype=torch.float64) + across_CC)
    return mixing_CC


def estimate(mixing_CC: Tensor, num_tokens: int) -> Tensor:
    """Second moments of tokens that are drawn at random (C, C)."""
    token_NC = torch.randn(num_tokens, CHANNELS, dtype=torch.float64) @ mixing_CC.T
    return token_NC.T @ token_NC / num_tokens


def test_diagonal_stays_and_other_entries_shrink_by_channels_and_tokens() -> None:
    found = shrunk(torch.tensor([[4.0, 2.0], [2.0, 6.0]]), 6)
    torch.testing.assert_close(found, torch.tensor([[4.0, 1.5], [1.5, 6.0]]))


@pytest.mark.parametrize("num_tokens", [12, 24, 48, 96])
def test_few_tokens_are_nearer_to_the_true_moments_when_shrunk(num_tokens: int) -> None:
    raw, better = list[float](), list[float]()
    for seed in range(20):
        mixing_CC = mixing(seed)
        found_CC, true_CC = estimate(mixing_CC, num_tokens), mixing_CC @ mixing_CC.T
        raw.append(float((found_CC - true_CC).square().sum()))
        better.append(float((shrunk(found_CC, num_tokens) - true_CC).square().sum()))
    assert sum(better) < 0.8 * sum(raw)


def test_units_that_few_tokens_choose_cost_less_when_the_moments_are_shrunk() -> None:
    """The loss of the cheaper half of the units, after the best repair by the true moments."""
    raw, better = list[float](), list[float]()
    for seed in range(20):
        mixing_CC = mixing(seed)
        found_CC, true_CC = estimate(mixing_CC, 24), mixing_CC @ mixing_CC.T
        weight_OC = torch.randn(12, CHANNELS, dtype=torch.float64)
        for spread_CC, losses in ((found_CC, raw), (shrunk(found_CC, 24), better)):
            ridge_CC = spread_CC + 0.01 * spread_CC.diagonal().mean() * torch.eye(CHANNELS)
            order_C = costs(weight_OC, ridge_CC, torch.eye(12, dtype=torch.float64), 1).argsort()
            losses.append(loss(weight_OC, true_CC, order_C[: CHANNELS // 2], order_C[CHANNELS // 2 :]))
    assert sum(better) < 0.95 * sum(raw)


def loss(weight_OC: Tensor, true_CC: Tensor, gone: Tensor, kept: Tensor) -> float:
    """E|W h - W' h_K|^2 for the best W'."""
    across_KG = torch.linalg.solve(true_CC[kept][:, kept], true_CC[kept][:, gone])
    rest_GG = true_CC[gone][:, gone] - true_CC[gone][:, kept] @ across_KG
    return float((weight_OC[:, gone] @ rest_GG @ weight_OC[:, gone].T).trace())
