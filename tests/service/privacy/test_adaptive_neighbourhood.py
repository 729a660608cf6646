"""The adaptive neighbourhood: its noise, and its guarantee by an integral over all noise in two dimensions."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from service.privacy.adaptive_neighbourhood import AdaptiveNeighbourhood, laplace
from service.privacy.exponential_mechanism import softmax
from service.privacy.uniform_numbers import from_seed
from tests.support.token_spaces import EVERY_TOKEN, VOCABULARY, chi_square, token_space

EPSILON = 12.0  # neighbourhoods then hold some of the tokens


def scaled(mechanism: AdaptiveNeighbourhood, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """The embeddings with each dimension divided by its range, its middle at 0, where tokens without a place are."""
    space = mechanism.space
    placed = space.embedding_VD[space.has_place_V].astype(np.float64)
    low, high = placed.min(0), placed.max(0)
    rows = [
        (space.embedding_VD[token] - (low + high) / 2) / (high - low)
        if space.has_place(np.array([token]))[0]
        else np.zeros(placed.shape[1])
        for token in tokens
    ]
    return np.array(rows)


@cache
def exact() -> tuple[AdaptiveNeighbourhood, NDArray[np.float64]]:
    """A mechanism over a table of two dimensions, and Pr[y | x] of every token (X, K), summed over a grid of noise."""
    mechanism = AdaptiveNeighbourhood(token_space(dimensions=2), EPSILON)
    scale = 2 / EPSILON
    axis = np.linspace(-12 * scale, 12 * scale, 400)
    grid_GD = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    near_GK = mechanism.neighbourhoods(grid_GD.astype(np.float32))
    weight_XK = mechanism.space.similarity(EVERY_TOKEN) * EPSILON / 4
    found = []
    for place_D, weight_K in zip(scaled(mechanism, EVERY_TOKEN), weight_XK, strict=True):
        density_G = np.exp(-np.abs(grid_GD - place_D).sum(1) / scale) / (2 * scale) ** 2
        draw_GK = softmax(np.where(near_GK, weight_K, -np.inf))
        found.append(density_G @ draw_GK * (axis[1] - axis[0]) ** 2)
    return mechanism, np.array(found)


def test_the_grid_holds_nearly_all_of_the_noise() -> None:
    np.testing.assert_allclose(exact()[1].sum(1), 1, atol=0.01)


def test_no_replacement_tells_two_tokens_apart_by_more_than_their_distance_allows() -> None:
    mechanism, probability_XK = exact()
    place_XD = scaled(mechanism, EVERY_TOKEN)
    distance_XX = np.abs(place_XD[:, None] - place_XD[None]).sum(-1)
    allowed_XX = EPSILON / 2 * distance_XX + EPSILON / 2
    loss_XX = np.log(probability_XK[:, None] / probability_XK[None]).max(-1)
    assert (loss_XX <= allowed_XX + 1e-6).all()
    assert loss_XX.max() > 0.1
    assert (allowed_XX <= mechanism.local_epsilon + 1e-6).all()


@pytest.mark.parametrize("dimensions", [1, 2, 7, 40])
def test_the_diameter_bounds_the_distance_of_every_two_tokens(dimensions: int) -> None:
    mechanism = AdaptiveNeighbourhood(token_space(dimensions=dimensions), EPSILON)
    place_XD = scaled(mechanism, EVERY_TOKEN)
    largest = np.abs(place_XD[:, None] - place_XD[None]).sum(-1).max()
    assert largest - 1e-5 <= mechanism.diameter <= dimensions


@pytest.mark.parametrize("index", [0, 1, 4, len(EVERY_TOKEN) - 1])
def test_tokens_are_drawn_with_their_probabilities(index: int) -> None:
    mechanism, probability_XK = exact()
    count = 10_000
    replaced_N = mechanism.replace(np.full(count, EVERY_TOKEN[index]), from_seed(3))
    observed_K = np.bincount(replaced_N, minlength=VOCABULARY)[mechanism.space.candidate_K]
    assert observed_K.sum() == count
    assert chi_square(observed_K, probability_XK[index] / probability_XK[index].sum() * count) < 3


def test_the_neighbourhood_shrinks_as_the_budget_grows_and_is_never_empty() -> None:
    space = token_space(dimensions=40)
    at_tokens = scaled(AdaptiveNeighbourhood(space, 1), space.candidate_K).astype(np.float32)
    sizes = [AdaptiveNeighbourhood(space, epsilon).neighbourhoods(at_tokens).sum(1) for epsilon in (1, 40, 1000)]
    assert (sizes[0] == VOCABULARY - 2).all()
    assert sizes[1].mean() < VOCABULARY - 2
    assert (sizes[2] == 1).all()


def test_noise_has_the_distribution_of_laplace() -> None:
    noise_N = np.sort(laplace(from_seed(1)(20_000), 1.5))
    expected_N = np.where(noise_N < 0, np.exp(noise_N / 1.5) / 2, 1 - np.exp(-noise_N / 1.5) / 2)
    assert np.abs(expected_N - np.arange(1, 20_001) / 20_000).max() < 0.015  # Kolmogorov and Smirnov


def test_noise_is_finite_for_the_first_and_the_last_uniform_number() -> None:
    assert np.isfinite(laplace(np.array([0, 1 - 2**-53]), 1)).all()


def test_the_share_of_unchanged_tokens_grows_to_all() -> None:
    shares = [AdaptiveNeighbourhood(token_space(), epsilon).unchanged_share() for epsilon in (0.1, 1000)]
    assert shares[0] < 0.7
    assert shares[1] == 1
