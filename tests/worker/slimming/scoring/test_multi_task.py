"""The scores of several tasks as one."""

from collections.abc import Sequence

import pytest
import torch

from service.contract.options import UnionRule
from worker.slimming.allocation import Rules
from worker.slimming.scoring.multi_task import RULES, VOTE, normalised, removed_before, united, voted
from worker.slimming.selection import best, select
from worker.slimming.units.groups import Group, Kept, Scores, Site

SITES = [Site("decoder", layer, "ffn") for layer in range(2)]


def drawn(seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(6, generator=generator) for site in SITES}


def scaled(scores: Scores, factor: float) -> Scores:
    return {site: score_U * factor for site, score_U in scores.items()}


def test_contract_lists_the_rules() -> None:
    assert {*RULES, VOTE} == set(UnionRule)


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


def groups(sizes: dict[Site, int]) -> list[Group]:
    """Groups of six units, with this many parameters in each unit."""
    return [
        Group(site, "ffn", 6, parameters, (), "", "input", 1, (("width", 1),), level=str(site))
        for site, parameters in sizes.items()
    ]


def kept_by_most(masks: Sequence[Kept], site: Site) -> set[int]:
    """The units of a site that more than half of the masks keep."""
    counts = torch.cat([mask[site] for mask in masks]).bincount(minlength=6)
    return set((counts > len(masks) / 2).nonzero().flatten().tolist())


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
def test_vote_within_a_layer_keeps_what_most_masks_keep(tasks: int) -> None:
    found = groups(dict.fromkeys(SITES, 1))
    scores = [drawn(seed) for seed in range(tasks)]
    union = voted(scores, found, Rules())
    for count in range(1, 6):
        masks = [{site: best(each[site], count) for site in SITES} for each in scores]
        for site in SITES:
            wanted = kept_by_most(masks, site)
            assert set(best(union[site], len(wanted)).tolist()) == wanted


@pytest.mark.parametrize("normalisation", ["none", "mean"])
def test_vote_in_a_global_rank_keeps_what_most_masks_keep(normalisation: str) -> None:
    found = groups(dict.fromkeys(SITES, 2))
    rules = Rules(scope="global", layout="per_layer", floor=0.0, normalisation=normalisation)
    scores = [drawn(seed) for seed in range(3)]
    shares = [removed_before(each, found, rules) for each in scores]
    union = voted(scores, found, rules)
    for removed in range(1, 9):
        masks = [select(each, found, removed / 12, 1, rules) for each in scores]
        for share, mask in zip(shares, masks, strict=True):  # the shares are the order in which a mask removes units
            above = {site: (share[site] >= removed / 12 - 1e-9).nonzero().flatten() for site in SITES}
            assert all(torch.equal(above[site], mask[site]) for site in SITES)
        for site in SITES:
            voted_for = (union[site] / 2 >= removed / 12 - 1e-6).nonzero().flatten().tolist()
            assert set(voted_for) == kept_by_most(masks, site)


def test_vote_does_not_depend_on_the_size_of_scores() -> None:
    found = groups({SITES[0]: 2, SITES[1]: 3})
    first, second, third = (drawn(seed) for seed in range(3))
    one = voted([first, second, third], found, Rules(scope="global"))
    other = voted([scaled(first, 1000), second, third], found, Rules(scope="global"))
    assert all(torch.equal(one[site], other[site]) for site in SITES)
