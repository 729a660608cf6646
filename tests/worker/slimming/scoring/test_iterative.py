from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.allocation import Rules, WidthUnreachable
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.iterative import ScorePath, follow, schedule
from worker.slimming.selection import select
from worker.slimming.units.groups import Kept, Scores, Site
from worker.slimming.units.locating import locate

LLAMA = ARCHITECTURES["llama"]
MODEL = TINY["llama"]()
GROUPS = locate(MODEL, LLAMA, ["ffn", "heads"])
NEURONS = [group for group in GROUPS if group.kind == "ffn"]
EQUAL_UNDER_ONE_THRESHOLD = Rules(scope="global", normalisation="mean")
NESTED = [Rules(), Rules(scope="global", layout="per_layer", normalisation="standard")]


def scores_of(seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    return {group.site: torch.rand(group.count, generator=generator) for group in GROUPS}


def random_path(ratios: tuple[float, ...], seed: int, rules: Rules) -> ScorePath:
    """Scores that are drawn again at each step, so that only the masks relate one step to the next."""
    seeds = iter(range(seed, seed + len(ratios)))
    return follow(
        MODEL, LLAMA, ratios, lambda: scores_of(next(seeds)), lambda s, ratio: select(s, GROUPS, ratio, 4, rules)
    )


def test_each_step_is_scored_on_the_units_that_are_left() -> None:
    data = batches("llama", examples(6), 3)
    # With signed scores a removed unit scores zero, which is more than a negative score: it must still stay removed.
    options = Options(example_reduction="sum")

    def measure() -> Scores:
        return score(MODEL, LLAMA, ["ffn"], data, "attribution", options).scores

    dense, site = measure(), NEURONS[0].site
    path = follow(MODEL, LLAMA, schedule(0.75, 3), measure, lambda s, r: select(s, NEURONS, r, 4))
    assert list(path.ratios) == [0, 0.25, 0.5]
    assert [int(scores[site].isfinite().sum()) for scores in path.scores] == [48, 36, 24]
    assert torch.equal(path.scores[0][site], dense[site])
    left = path.scores[1][site].isfinite()
    assert not torch.equal(path.scores[1][site][left], dense[site][left])


def test_one_step_equals_a_selection_without_steps() -> None:
    scores = scores_of(0)
    path = random_path(schedule(0.5, 1), 0, Rules())
    assert list(path.ratios) == [0]
    assert all(torch.equal(path.at(0.5)[site], scores[site]) for site in scores)


@given(
    ratios=st.lists(st.floats(0.01, 0.9), min_size=1, max_size=6, unique=True).map(sorted),
    target=st.floats(0.001, 0.95),
)
def test_scores_at_a_ratio_are_those_of_the_last_step_before_it(ratios: list[float], target: float) -> None:
    taken: tuple[Scores, ...] = tuple({Site("decoder", 0, "ffn"): torch.tensor([ratio])} for ratio in (0, *ratios))
    [score_U] = ScorePath((0.0, *ratios), taken).at(target).values()
    assert score_U.item() == torch.tensor(max(ratio for ratio in (0, *ratios) if ratio < target)).item()


@given(
    steps=st.integers(1, 4),
    seed=st.integers(0, 2**20),
    target=st.lists(st.floats(0.01, 0.7), min_size=2, max_size=5, unique=True).map(sorted),
    rules=st.sampled_from(NESTED),
)
def test_higher_ratio_of_a_path_keeps_a_subset(steps: int, seed: int, target: list[float], rules: Rules) -> None:
    path = random_path(schedule(0.7, steps), seed, rules)
    kept = []
    for ratio in target:
        try:
            kept.append(select(path.at(ratio), GROUPS, ratio, 4, rules))
        except WidthUnreachable:
            break
    for lower, higher in pairwise(kept):
        assert all(set(higher[site].tolist()) <= set(lower[site].tolist()) for site in lower)


@given(steps=st.integers(2, 4), seed=st.integers(0, 2**20), target=st.floats(0.2, 0.7))
def test_units_removed_by_earlier_steps_stay_removed(steps: int, seed: int, target: float) -> None:
    path = random_path(schedule(0.7, steps), seed, EQUAL_UNDER_ONE_THRESHOLD)
    scores = path.at(target)
    kept = select(scores, GROUPS, target, 4, EQUAL_UNDER_ONE_THRESHOLD)
    assert all(scores[site][kept_K].isfinite().all() for site, kept_K in kept.items())


def test_path_ends_at_the_first_ratio_without_valid_widths() -> None:
    def choose(scores: Scores, ratio: float) -> Kept:
        return select(scores, NEURONS, ratio, 32)

    path = follow(MODEL, LLAMA, schedule(0.9, 4), lambda: scores_of(0), choose)
    assert list(path.ratios) == [0, 0.225, 0.45]
