"""Label offsets: their equation, what they recover, and what they do not depend on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from worker.evaluation.label_offsets import MAX_ROWS, fit, loss, rows_to_fit


def drawn(seed: int, rows: int, labels: int) -> tuple[Tensor, Tensor]:
    """Scores of random labels, each with evidence for the right one."""
    generator = torch.Generator().manual_seed(seed)
    answer_E = torch.randint(labels, (rows,), generator=generator)
    score_EL = 2 * torch.randn(rows, labels, generator=generator, dtype=torch.float64)
    score_EL[torch.arange(rows), answer_E] += 2
    return score_EL.log_softmax(dim=1), answer_E


def centred(offset_L: Tensor) -> Tensor:
    return offset_L - offset_L.mean()


CASES = st.tuples(st.integers(0, 2**20), st.integers(1, 60), st.integers(2, 6))


@given(CASES)
@settings(max_examples=30, deadline=None)
def test_offsets_minimise_the_stated_equation(case: tuple[int, int, int]) -> None:
    """The equation is convex: its gradient is zero at the minimum alone."""
    score_EL, answer_E = drawn(*case)
    fitted_L = fit(score_EL, answer_E)
    offset_L = centred(fitted_L).requires_grad_()
    equation = cross_entropy(score_EL + offset_L, answer_E) + 0.5 / len(answer_E) * (offset_L**2).sum()
    equation.backward()
    assert fitted_L[0] == 0
    assert fitted_L.dtype == torch.float64
    assert offset_L.grad is not None
    assert offset_L.grad.abs().max() < 1e-8
    assert equation.item() == pytest.approx(loss(score_EL, answer_E, centred(fitted_L)))


@given(CASES)
@settings(max_examples=30, deadline=None)
def test_offsets_follow_the_order_of_the_labels(case: tuple[int, int, int]) -> None:
    score_EL, answer_E = drawn(*case)
    order = torch.randperm(case[2], generator=torch.Generator().manual_seed(case[0]))
    swapped = fit(score_EL[:, order], order.argsort()[answer_E])
    torch.testing.assert_close(centred(swapped), centred(fit(score_EL, answer_E))[order], atol=1e-7, rtol=0)


@given(CASES)
@settings(max_examples=30, deadline=None)
def test_number_added_to_all_scores_of_a_row_changes_nothing(case: tuple[int, int, int]) -> None:
    score_EL, answer_E = drawn(*case)
    shifted_EL = score_EL + torch.linspace(-50, 50, case[1]).double().unsqueeze(1)
    torch.testing.assert_close(fit(shifted_EL, answer_E), fit(score_EL, answer_E), atol=1e-6, rtol=0)


def test_offsets_take_back_a_shift_of_the_labels() -> None:
    """Scores that are log-posteriors need no offsets; a number added to a label's score is subtracted again."""
    generator = torch.Generator().manual_seed(0)
    posterior_EL = torch.randn(20_000, 3, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    answer_E = posterior_EL.exp().multinomial(1, generator=generator).squeeze(1)
    bias_L = torch.tensor([0.0, 4.0, -3.0], dtype=torch.float64)
    torch.testing.assert_close(fit(posterior_EL, answer_E), torch.zeros(3).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(fit(posterior_EL + bias_L, answer_E), -bias_L, atol=0.1, rtol=0)


def test_offsets_follow_the_frequencies_of_the_labels() -> None:
    """Scores from a world with equally frequent labels, rows from one where the second label is rare."""
    generator = torch.Generator().manual_seed(0)
    answer_E = (torch.rand(20_000, generator=generator) < 0.1).long()
    evidence_E = torch.randn(20_000, generator=generator, dtype=torch.float64) + (2 * answer_E - 1)
    score_EL = torch.stack([-evidence_E, evidence_E], dim=1)  # the log-likelihood ratio is 2 x evidence
    torch.testing.assert_close(fit(score_EL, answer_E)[1].item(), -2.197, atol=0.1, rtol=0)  # log(0.1 / 0.9)


def test_thousand_labels_and_labels_without_rows_have_finite_offsets() -> None:
    score_EL, answer_E = drawn(0, 64, 1000)
    offset_L = fit(score_EL, answer_E)
    assert offset_L.isfinite().all()
    assert offset_L.abs().max() < 10
    assert loss(score_EL, answer_E, centred(offset_L)) < loss(score_EL, answer_E, torch.zeros(1000).double())


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_extreme_scores_have_finite_offsets(scale: float) -> None:
    score_EL, answer_E = drawn(0, 40, 3)
    assert fit(score_EL * scale, answer_E).isfinite().all()


def test_no_more_than_a_stated_number_of_rows_is_used_with_labels_in_proportion() -> None:
    answers = [0] * 3000 + [1] * 1000
    rows = rows_to_fit(answers)
    assert len(rows) == len(set(rows)) == MAX_ROWS
    assert sum(answers[row] for row in rows) == pytest.approx(MAX_ROWS / 4, abs=2)
    assert rows_to_fit(answers[:100]) == list(range(100))
