import pytest
import torch

from worker.slimming.gram import add_gram


@pytest.mark.parametrize("channels", [1, 128, 129, 1500])
def test_sums_equal_the_full_product(channels: int) -> None:
    activation_NC, weight_N1 = torch.randn(7, channels), torch.rand(7, 1)
    gram_CC, weighted_CC = torch.ones(channels, channels), torch.zeros(channels, channels)
    add_gram(gram_CC, activation_NC)
    add_gram(weighted_CC, activation_NC, activation_NC * weight_N1)
    torch.testing.assert_close(gram_CC, 1 + activation_NC.T @ activation_NC, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted_CC, (activation_NC * weight_N1).T @ activation_NC, rtol=1e-4, atol=1e-5)
