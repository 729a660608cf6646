"""The exponential mechanism: its closed form, what it draws, and its guarantee on whole vocabularies."""

import numpy as np
import pytest

from service.privacy.exponential_mechanism import ExponentialMechanism, drawn
from service.privacy.uniform_numbers import from_seed, from_system
from tests.support.token_spaces import EVERY_TOKEN, RESERVED, VOCABULARY, chi_square, token_space


def test_probabilities_are_those_of_the_clipped_cosine_of_centred_embeddings() -> None:
    space, epsilon = token_space(), 3.0
    tokens = [token for token in range(VOCABULARY) if token not in (RESERVED, 5)]
    centred = {token: space.embedding_VD[token] - space.embedding_VD[tokens].mean(0) for token in tokens}
    for token in tokens:
        raised = []
        for other in tokens:
            first, second = centred[token].astype(float), centred[other].astype(float)
            cosine = first @ second / np.sqrt((first @ first) * (second @ second))
            raised.append(np.exp(epsilon * max(cosine, 0) / 2))
        [found_K] = ExponentialMechanism(space, epsilon).probabilities(np.array([token]))
        np.testing.assert_allclose(found_K, np.array(raised) / sum(raised), rtol=1e-5)


@pytest.mark.parametrize("token", [-1, VOCABULARY, RESERVED, 5], ids=["negative", "beyond", "reserved", "zero"])
def test_a_token_without_a_place_becomes_every_candidate_with_the_same_probability(token: int) -> None:
    [probability_K] = ExponentialMechanism(token_space(), 8).probabilities(np.array([token]))
    np.testing.assert_allclose(probability_K, 1 / (VOCABULARY - 2))


@pytest.mark.parametrize("epsilon", [0.1, 1, 4, 16])
@pytest.mark.parametrize("seed", range(5))
def test_no_replacement_tells_two_tokens_apart_by_more_than_the_budget(epsilon: float, seed: int) -> None:
    mechanism = ExponentialMechanism(token_space(seed=seed), epsilon)
    probability_XK = mechanism.probabilities(EVERY_TOKEN)
    np.testing.assert_allclose(probability_XK.sum(1), 1)
    ratio = (probability_XK.max(0) / probability_XK.min(0)).max()
    assert ratio <= np.exp(mechanism.local_epsilon) * (1 + 1e-9)
    assert ratio > 1.01


@pytest.mark.parametrize("token", [0, RESERVED])
def test_tokens_are_drawn_with_their_probabilities(token: int) -> None:
    mechanism, count = ExponentialMechanism(token_space(), 4), 20_000
    replaced_N = mechanism.replace(np.full(count, token), from_seed(7))
    [probability_K] = mechanism.probabilities(np.array([token]))
    observed_K = np.bincount(replaced_N, minlength=VOCABULARY)[mechanism.space.candidate_K]
    assert observed_K.sum() == count
    assert chi_square(observed_K, probability_K * count) < 3


def test_each_place_is_drawn_for_its_own_token() -> None:
    """With so large a budget a token is nearly always replaced by itself, wherever it stands."""
    token_N = np.random.default_rng(0).choice([0, 1, 2, 4], size=50)
    assert np.array_equal(ExponentialMechanism(token_space(), 500).replace(token_N, from_seed(0)), token_N)


def test_equal_tokens_are_replaced_independently() -> None:
    assert len(set(ExponentialMechanism(token_space(), 1).replace(np.zeros(100, dtype=np.int64), from_seed(0)))) > 3


def test_the_share_of_unchanged_tokens_is_the_mean_of_their_probabilities() -> None:
    mechanism = ExponentialMechanism(token_space(), 4)
    probability_KK = mechanism.probabilities(mechanism.space.candidate_K)
    assert mechanism.unchanged_share() == pytest.approx(probability_KK.diagonal().mean())


def test_a_distribution_is_drawn_from_by_its_cumulative_sums() -> None:
    probability_K, uniform_N = np.array([0.5, 0.0, 0.25, 0.25]), np.array([0, 0.49, 0.5, 0.74, 0.75, 1 - 2**-53])
    assert drawn(probability_K, uniform_N).tolist() == [0, 0, 2, 2, 3, 3]


def test_numbers_of_the_operating_system_are_uniform_and_differ_from_call_to_call() -> None:
    numbers = from_system(50_000)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert chi_square(np.histogram(numbers, 20, (0, 1))[0], np.full(20, 2500.0)) < 4
    assert not np.array_equal(numbers[:10], from_system(10))
