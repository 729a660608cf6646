"""Rounding without calibration: each weight is the nearest number that its group can hold."""

import pytest
import torch

from worker.quantisation.weights import rounded, scale_of


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 16), (4, None)])
def test_a_rounded_weight_is_within_half_a_step(bits: int, group_size: int | None) -> None:
    weight_OI = torch.randn(6, 48, generator=torch.Generator().manual_seed(0))
    scale_OG = scale_of(weight_OI, bits, group_size, torch.float32)
    found = rounded(weight_OI, scale_OG, bits)
    step_OI = scale_OG.repeat_interleave(48 // scale_OG.shape[1], 1)
    assert scale_OG.shape == (6, 48 // (group_size or 48))
    assert ((found.dense_OI - weight_OI).abs() <= step_OI / 2 * 1.0001).all()
    assert found.value_OI.min() >= -(2 ** (bits - 1))
    assert found.value_OI.max() <= 2 ** (bits - 1) - 1


def test_numbers_on_the_grid_stay() -> None:
    value_OI = torch.tensor([[-8, 7, 3, 0], [1, 2, -8, 4]])
    scale_OG = torch.tensor([[0.5], [0.25]])
    found = rounded(value_OI * scale_OG, scale_OG, 4)
    assert torch.equal(found.value_OI, value_OI.to(torch.int8))
    assert torch.equal(found.dense_OI, value_OI * scale_OG)


def test_a_group_of_zeros_stays_zero() -> None:
    weight_OI = torch.tensor([[0.0, 0.0, 3.0, -1.0]])
    found = rounded(weight_OI, scale_of(weight_OI, 4, 2, torch.bfloat16), 4)
    assert found.dense_OI[0, :2].tolist() == [0.0, 0.0]
