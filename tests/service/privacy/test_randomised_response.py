"""Randomised response: its closed form, its guarantee, and what it answers."""

import math

import numpy as np
import pytest

from service.privacy.randomised_response import kept_probability, respond
from service.privacy.uniform_numbers import from_seed
from tests.support.token_spaces import chi_square


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("epsilon", [0.1, 1, 5])
def test_a_label_stays_as_much_more_often_than_it_becomes_another_as_the_budget_says(
    count: int, epsilon: float
) -> None:
    kept = kept_probability(epsilon, count)
    assert kept == pytest.approx(math.exp(epsilon) / (math.exp(epsilon) + count - 1))
    assert kept / ((1 - kept) / (count - 1)) == pytest.approx(math.exp(epsilon))


@pytest.mark.parametrize("label", [0, 2])
def test_answers_have_their_probabilities(label: int) -> None:
    answers = respond(np.full(20_000, label), 4, 1.5, from_seed(5))
    expected = np.full(4, (1 - kept_probability(1.5, 4)) / 3)
    expected[label] = kept_probability(1.5, 4)
    assert chi_square(np.bincount(answers, minlength=4), expected * 20_000) < 3


def test_a_very_large_budget_does_not_overflow() -> None:
    assert kept_probability(5000, 3) == 1
