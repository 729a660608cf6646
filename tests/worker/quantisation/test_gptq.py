"""GPTQ: against a slow form of the same method, and against rounding to the nearest."""

import torch
from torch import Tensor

from worker.quantisation.gptq import DAMPING, gptq
from worker.quantisation.weights import rounded, scale_of


def drawn(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """(weights, sums of products of correlated inputs)."""
    draw = torch.Generator().manual_seed(1)
    mixing = torch.randn(inputs, inputs, generator=draw)
    states = torch.randn(4 * inputs, inputs, generator=draw) @ mixing
    return torch.randn(outputs, inputs, generator=draw), states.T @ states


def squared_error(weight_OI: Tensor, other_OI: Tensor, gram_II: Tensor) -> float:
    difference_OI = (weight_OI - other_OI).double()
    return float((difference_OI @ gram_II.double() * difference_OI).sum())


def one_by_one(weight_OI: Tensor, gram_II: Tensor, scale_OI: Tensor, bits: int) -> Tensor:
    """The whole numbers by optimal brain surgery: after each column the Hessian of those that are left is inverted."""
    rest_OI, hessian_II = weight_OI.double().clone(), gram_II.double()
    hessian_II = hessian_II + torch.eye(len(hessian_II)) * DAMPING * hessian_II.diagonal().mean()
    left = gram_II.diagonal().argsort(descending=True).tolist()
    value_OI = torch.zeros_like(rest_OI)
    while left:
        column = left[0]
        inverse = torch.linalg.inv(hessian_II[left][:, left])
        value = (rest_OI[:, column] / scale_OI[:, column]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        error = (rest_OI[:, column] - value * scale_OI[:, column]) / inverse[0, 0]
        rest_OI[:, left] -= error.unsqueeze(1) * inverse[0]
        value_OI[:, column] = value
        left = left[1:]
    return value_OI


def test_columns_are_compensated_as_by_optimal_brain_surgery() -> None:
    weight_OI, gram_II = drawn(5, 32)
    scale_OG = scale_of(weight_OI, 4, 16, torch.float32)
    expected = one_by_one(weight_OI, gram_II, scale_OG.repeat_interleave(16, 1), 4)
    assert torch.equal(gptq(weight_OI, gram_II, scale_OG, 4).value_OI, expected.to(torch.int8))


def test_outputs_change_less_than_by_rounding_to_the_nearest() -> None:
    weight_OI, gram_II = drawn(16, 256)  # more columns than a block has
    scale_OG = scale_of(weight_OI, 4, 32, torch.float32)
    nearest, found = rounded(weight_OI, scale_OG, 4), gptq(weight_OI, gram_II, scale_OG, 4)
    assert squared_error(found.dense_OI, weight_OI, gram_II) < 0.5 * squared_error(nearest.dense_OI, weight_OI, gram_II)


def test_independent_inputs_leave_nothing_to_compensate() -> None:
    weight_OI, _ = drawn(4, 32)
    scale_OG = scale_of(weight_OI, 4, 32, torch.float32)
    found = gptq(weight_OI, torch.diag(torch.arange(32.0)), scale_OG, 4)  # one of them is always zero
    assert torch.equal(found.value_OI, rounded(weight_OI, scale_OG, 4).value_OI)
