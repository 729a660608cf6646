"""The strength of the ridge, by the error of a fit on tokens that it has not seen."""

import pytest
import torch
from torch import Tensor

from worker.slimming.repair import ridge
from worker.slimming.repair.ridge import solve

CHANNELS, KEPT, OUTPUTS, LEAST = 48, 24, 12, 0.01


def test_share_is_channels_by_tokens_and_not_below_the_least() -> None:
    assert ridge.share(100, 400, LEAST) == 0.25
    assert ridge.share(100, 10**6, LEAST) == LEAST
    assert ridge.share(3, 0, LEAST) == 3


def error_on_other_tokens(num_tokens: int, strength: float, seed: int) -> float:
    """Mean square error of a consumer that lost half of its channels, fitted on `num_tokens` of them."""
    torch.manual_seed(seed)
    mixing_CC = torch.randn(CHANNELS, CHANNELS, dtype=torch.float64) / CHANNELS**0.5
    weight_OC = torch.randn(OUTPUTS, CHANNELS, dtype=torch.float64)

    def tokens(count: int) -> Tensor:
        return torch.randn(count, CHANNELS, dtype=torch.float64).matmul(mixing_CC.T)

    seen_NC, other_NC, kept = tokens(num_tokens), tokens(4000), slice(KEPT)
    gram_CC = seen_NC.T @ seen_NC / num_tokens
    fitted_OK = solve(gram_CC[kept, kept], weight_OC @ gram_CC[:, kept], weight_OC[:, kept], strength)
    return float((other_NC @ weight_OC.T - other_NC[:, kept] @ fitted_OK.T).square().mean())


@pytest.mark.parametrize("num_tokens", [12, 24, 48])
def test_few_tokens_are_fitted_better_with_the_share_than_with_the_least_ridge(num_tokens: int) -> None:
    shares = [error_on_other_tokens(num_tokens, ridge.share(KEPT, num_tokens, LEAST), seed) for seed in range(20)]
    least = [error_on_other_tokens(num_tokens, LEAST, seed) for seed in range(20)]
    assert sum(shares) < 0.9 * sum(least)


def test_many_tokens_are_fitted_alike() -> None:
    with_share = error_on_other_tokens(4000, ridge.share(KEPT, 4000, LEAST), seed=0)
    assert with_share == pytest.approx(error_on_other_tokens(4000, LEAST, seed=0), rel=0.01)


def test_inputs_that_are_all_zero_leave_the_prior() -> None:
    prior_OK = torch.randn(2, 3, dtype=torch.float64)
    found_OK = solve(torch.zeros(3, 3).double(), torch.zeros(2, 3).double(), prior_OK, 0.1)
    torch.testing.assert_close(found_OK, prior_OK)
