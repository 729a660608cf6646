import pytest
import torch
from torch import Tensor

from worker.slimming.scoring import optimal_brain_surgeon
from worker.slimming.scoring.optimal_brain_surgeon import costs
from worker.slimming.scoring.second_moments import RIDGE

OUTPUTS, CHANNELS = 6, 24


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W (O, C), and positive definite G (C, C) and S (O, O) of correlated channels, all float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    factors_NF, mixing_FC = normal(200, 8), normal(8, CHANNELS)
    hidden_NC = factors_NF @ mixing_FC + 0.3 * normal(200, CHANNELS)
    gradient_NO = normal(50, OUTPUTS)
    return normal(OUTPUTS, CHANNELS), hidden_NC.T @ hidden_NC / 200, gradient_NO.T @ gradient_NO / 50


def loss(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, kept_K: Tensor) -> Tensor:
    """tr(S dW G dW^T) of the best W that uses the channels `kept_K` alone."""
    fitted_OK = torch.linalg.solve(spread_CC[kept_K][:, kept_K], spread_CC[kept_K] @ weight_OC.T).T
    change_OC = weight_OC.index_add(1, kept_K, -fitted_OK)
    return torch.trace(effect_OO @ change_OC @ spread_CC @ change_OC.T)


@pytest.mark.parametrize("size", [1, 4])
def test_costs_add_up_to_the_loss_of_the_best_fit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal_brain_surgeon, "BLOCK", 1)
    monkeypatch.setattr(optimal_brain_surgeon, "_rising", lambda cost_U: cost_U)
    weight_OC, spread_CC, effect_OO = problem(0)
    cost_U = costs(weight_OC, spread_CC, effect_OO, size)
    order_U, lost = _order(weight_OC, spread_CC, effect_OO, size), 0.0
    for num_removed in range(1, len(order_U)):
        lost += float(cost_U[order_U[num_removed - 1]])
        kept_U = order_U[num_removed:].sort().values
        kept_K = (kept_U.unsqueeze(1) * size + torch.arange(size)).flatten()
        torch.testing.assert_close(
            torch.tensor(lost).double(), loss(weight_OC, spread_CC, effect_OO, kept_K), rtol=1e-4, atol=1e-6
        )


def _order(weight_OC: Tensor, spread_CC: Tensor, effect_OO: Tensor, size: int) -> Tensor:
    """The greedy order by brute force: always the unit whose removal costs least after a fit of the others (U)."""
    left, order = list(range(weight_OC.shape[1] // size)), list[int]()

    def without(unit: int) -> float:
        kept = torch.tensor([index for index in left if index != unit], dtype=torch.long)
        kept_K = (kept.unsqueeze(1) * size + torch.arange(size)).flatten()
        return float(loss(weight_OC, spread_CC, effect_OO, kept_K))

    while left:
        order.append(min(left, key=without))
        left.remove(order[-1])
    return torch.tensor(order)


@pytest.mark.parametrize("size", [1, 4])
def test_order_of_removal_equals_that_of_brute_force(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal_brain_surgeon, "BLOCK", 1)
    for seed in range(3):
        assert torch.equal(costs(*problem(seed), size).argsort(), _order(*problem(seed), size))


def test_costs_rise_in_the_order_of_removal_also_in_float32() -> None:
    cost_U = costs(*problem(1), 1).float().sort().values
    assert (cost_U.diff() > 0).all()


def test_ranks_of_float32_agree_with_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels with scales from 1 to 1,000 that are near to functions of 40 others, with the least ridge of scoring."""
    draw = torch.Generator().manual_seed(0)
    hidden_NC = torch.randn(2000, 40, generator=draw).double() @ torch.randn(40, 400, generator=draw).double()
    hidden_NC += 0.1 * torch.randn(2000, 400, generator=draw)
    hidden_NC *= torch.logspace(0, 3, 400)[torch.randperm(400, generator=draw)]
    spread_CC = hidden_NC.T @ hidden_NC / 2000
    spread_CC.diagonal().add_(RIDGE * float(spread_CC.diagonal().mean()))
    given = (torch.randn(32, 400, generator=draw), spread_CC, torch.eye(32))
    single_U = costs(*given, 1)
    monkeypatch.setattr(optimal_brain_surgeon, "_inverse", torch.linalg.inv)
    double_U = costs(*given, 1)
    for count in range(20, 400, 20):
        first, expected = (set(cost_U.topk(count, largest=False).indices.tolist()) for cost_U in (single_U, double_U))
        assert len(first & expected) >= 0.99 * count


def test_matrices_too_near_to_singular_for_float32_are_eliminated_in_float64() -> None:
    weight_OC, spread_CC, effect_OO = problem(3)
    pairs_CC = torch.cat([torch.cat([spread_CC, spread_CC]), torch.cat([spread_CC, spread_CC])], dim=1)
    pairs_CC.diagonal().add_(1e-9)
    assert torch.linalg.cholesky_ex(pairs_CC.float()).info
    first = costs(torch.cat([weight_OC, weight_OC], dim=1), pairs_CC, effect_OO, 1).topk(CHANNELS).indices
    assert (first % CHANNELS).sort().values.tolist() == list(range(CHANNELS))


def test_cost_is_zero_for_a_sum_of_units_and_the_second_moment_for_an_independent_one() -> None:
    weight_OC, effect_OO = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    alone_CC = torch.diag(torch.tensor([4.0, 9.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(costs(weight_OC, alone_CC, effect_OO, 1), alone_CC.diagonal(), rtol=1e-4, atol=0)
    hidden_NC = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 2]], dtype=torch.float64)
    twice_CC = hidden_NC.T @ hidden_NC + 1e-5 * torch.eye(3, dtype=torch.float64)
    weight_OC[0] = torch.tensor([1.0, 2, 0])
    cost_U = costs(weight_OC, twice_CC, effect_OO, 1).sort().values
    assert cost_U[0] < 1e-4
    assert cost_U[1] > 0.1


def test_of_two_equal_units_only_one_is_cheap_to_remove() -> None:
    weight_OC, spread_CC, effect_OO = problem(2)
    pairs_CC = torch.cat([torch.cat([spread_CC, spread_CC]), torch.cat([spread_CC, spread_CC])], dim=1)
    pairs_CC.diagonal().add_(1e-4)
    first = costs(torch.cat([weight_OC, weight_OC], dim=1), pairs_CC, effect_OO, 1).topk(CHANNELS).indices
    assert (first % CHANNELS).sort().values.tolist() == list(range(CHANNELS))


def test_order_of_blocks_equals_that_of_single_units(monkeypatch: pytest.MonkeyPatch) -> None:
    blockwise = costs(*problem(2), 1).argsort()
    monkeypatch.setattr(optimal_brain_surgeon, "BLOCK", 1)
    assert torch.equal(costs(*problem(2), 1).argsort(), blockwise)


def test_large_blocks_cost_the_same_on_any_number_of_threads() -> None:
    """On two threads, torch fails or is wrong for a batch of matrices with more than 150 rows."""
    draw = torch.Generator().manual_seed(0)
    hidden_NC = torch.randn(900, 3 * 160, generator=draw, dtype=torch.float64)
    weight_OC, effect_OO = torch.randn(32, 3 * 160, generator=draw), torch.eye(32, dtype=torch.float64)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(costs(weight_OC, hidden_NC.T @ hidden_NC / 900, effect_OO, 160))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found)
