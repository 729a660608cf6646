"""The scores of several tasks as one."""

import pytest
import torch

from service.contract.options import UnionRule
from worker.slimming.scoring.multi_task import RULES, normalised, united
from worker.slimming.units import Scores, Site

SITES = [Site("decoder", layer, "ffn") for layer in range(2)]


def drawn(seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(6, generator=generator) for site in SITES}


def scaled(scores: Scores, factor: float) -> Scores:
    return {site: score_U * factor for site, score_U in scores.items()}


def test_contract_lists_the_rules() -> None:
    assert set(RULES) == set(UnionRule)


@pytest.mark.parametrize("rule", RULES)
def test_united_scores_do_not_depend_on_the_scale_of_a_task(rule: str) -> None:
    first, second = drawn(1), drawn(2)
    together, rescaled = united([first, second], rule), united([scaled(first, 1000), second], rule)
    for site in SITES:
        torch.testing.assert_close(together[site], rescaled[site])


def test_rules_are_the_sum_and_the_maximum() -> None:
    first, second = normalised(drawn(1)), normalised(drawn(2))
    for site in SITES:
        torch.testing.assert_close(united([drawn(1), drawn(2)], "sum")[site], first[site] + second[site])
        torch.testing.assert_close(united([drawn(1), drawn(2)], "max")[site], torch.maximum(first[site], second[site]))


def test_normalisation_keeps_proportions_between_groups() -> None:
    scores = normalised(drawn(1))
    ratio = scores[SITES[0]].abs().sum() / scores[SITES[1]].abs().sum()
    torch.testing.assert_close(ratio, drawn(1)[SITES[0]].abs().sum() / drawn(1)[SITES[1]].abs().sum())
    assert torch.cat(list(scores.values())).abs().mean() == pytest.approx(1)


def test_scores_of_a_single_task_are_unchanged() -> None:
    assert all(torch.equal(united([drawn(1)], "max")[site], drawn(1)[site]) for site in SITES)


def test_maximum_keeps_a_unit_that_one_task_needs() -> None:
    needed, useless = torch.tensor([9.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    both = united([{SITES[0]: needed}, {SITES[0]: useless}], "max")[SITES[0]]
    assert both.argmax() == 0
    assert both.argmin() == 1


def test_task_with_zero_scores_does_not_change_the_others() -> None:
    zero = {site: torch.zeros(6) for site in SITES}
    assert all(torch.equal(united([zero, drawn(1)], "sum")[site], normalised(drawn(1))[site]) for site in SITES)
