from itertools import permutations

import torch
from torch import Tensor, nn

from worker.slimming.merging.alignment import Expert, aligned


def expert(seed: int, neurons: int = 5) -> Expert:
    draw = torch.Generator().manual_seed(seed)
    return Expert(*(torch.randn(*shape, generator=draw) for shape in ((neurons, 7), (neurons, 7), (7, neurons))))


def output(one: Expert, input_D: Tensor) -> Tensor:
    return one.down_DI @ (nn.functional.silu(one.gate_ID @ input_D) * (one.up_ID @ input_D))


def product(one: Expert, other: Expert) -> float:
    return sum(float((ours * theirs).sum()) for ours, theirs in zip(one, other, strict=True))


def test_a_copy_in_another_order_is_brought_back() -> None:
    reference = expert(0)
    found = aligned(reference.in_order(torch.tensor([3, 0, 4, 1, 2])), reference)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, reference, strict=True))


def test_no_other_order_resembles_the_reference_more() -> None:
    reference, other = expert(1), expert(2)
    orders = [other.in_order(torch.tensor(order)) for order in permutations(range(5))]
    assert product(aligned(other, reference), reference) == max(product(order, reference) for order in orders)


def test_the_order_of_the_neurons_does_not_change_what_an_expert_computes() -> None:
    reference, other, input_D = expert(1), expert(2), torch.randn(7)
    torch.testing.assert_close(output(aligned(other, reference), input_D), output(other, input_D))
