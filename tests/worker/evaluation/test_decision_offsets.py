"""Label offsets where several labels may be right: their equation, and what they take back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from worker.evaluation.decision_offsets import fit


@given(st.integers(0, 2**20), st.integers(1, 60), st.sampled_from([1e-3, 1.0, 30.0]))
@settings(max_examples=30, deadline=None)
def test_offsets_minimise_the_stated_equation(seed: int, rows: int, scale: float) -> None:
    """The equation is convex: its gradient is zero at the minimum alone. Labels may have no row, or all."""
    generator = torch.Generator().manual_seed(seed)
    output_EL = scale * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    target_EL = (torch.rand(rows, 4, generator=generator) < torch.tensor([0.0, 0.2, 0.7, 1.0])).double()
    offset_L = fit(output_EL, target_EL).requires_grad_()
    entropy = binary_cross_entropy_with_logits(output_EL + offset_L, target_EL, reduction="sum") / rows
    (entropy + 0.5 / rows * offset_L.square().sum()).backward()
    assert offset_L.grad is not None
    assert offset_L.grad.abs().max() < 1e-9


def test_offsets_take_back_a_shift_of_the_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    log_odds_EL = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    target_EL = torch.bernoulli(log_odds_EL.sigmoid(), generator=generator)
    shift_L = torch.tensor([0.0, 3.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(fit(log_odds_EL + shift_L, target_EL), -shift_L, atol=0.1, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_offsets_are_in_float64(dtype: torch.dtype) -> None:
    assert fit(torch.ones(3, 2, dtype=dtype), torch.zeros(3, 2)).dtype == torch.float64
