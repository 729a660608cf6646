"""Several tasks, one ranking."""

import pytest
import torch
from torch import Tensor

from worker.slimming.scoring.multi_task import normalised, united
from worker.slimming.units import Site

SITES = [Site("decoder", layer, "ffn") for layer in range(2)]


def drawn(seed: int) -> dict[Site, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(6, generator=generator) for site in SITES}


def scaled(scores: dict[Site, Tensor], factor: float) -> dict[Site, Tensor]:
    return {site: score_U * factor for site, score_U in scores.items()}


def test_scale_of_one_task_does_not_change_the_union() -> None:
    mine, theirs = drawn(1), drawn(2)
    together, loud = united([mine, theirs]), united([scaled(mine, 1000), theirs])
    for site in SITES:
        torch.testing.assert_close(together[site], loud[site])


def test_union_is_the_sum_of_normalised_scores() -> None:
    mine, theirs = normalised(drawn(1)), normalised(drawn(2))
    for site in SITES:
        torch.testing.assert_close(united([drawn(1), drawn(2)])[site], mine[site] + theirs[site])


def test_normalised_scores_keep_the_proportions_between_groups() -> None:
    scores = normalised(drawn(1))
    ratio = scores[SITES[0]].abs().sum() / scores[SITES[1]].abs().sum()
    torch.testing.assert_close(ratio, drawn(1)[SITES[0]].abs().sum() / drawn(1)[SITES[1]].abs().sum())
    assert torch.cat(list(scores.values())).abs().mean() == pytest.approx(1)


def test_scores_of_a_single_task_stay_unchanged() -> None:
    assert all(torch.equal(united([drawn(1)])[site], drawn(1)[site]) for site in SITES)


def test_scores_that_are_all_zero_add_nothing_to_the_union() -> None:
    zero = {site: torch.zeros(6) for site in SITES}
    assert all(torch.equal(united([zero, drawn(1)])[site], normalised(drawn(1))[site]) for site in SITES)
