import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.slimming.selection import Rules, WidthUnreachable, select
from worker.slimming.units.groups import Group, Site


def group(count: int, layer: int = 0) -> Group:
    return Group(
        site=Site("decoder", layer, "ffn"),
        kind="ffn",
        count=count,
        parameters=12,
        slices=(),
        module="down",
        hook_point="input",
        size=1,
        fields=(("intermediate_size", 1),),
    )


ratios = st.floats(0, 0.95)


@given(st.integers(64, 300), ratios, ratios, st.sampled_from([1, 8, 64]), st.integers(0, 5))
def test_higher_ratio_keeps_a_subset(count: int, first: float, second: float, round_to: int, seed: int) -> None:
    groups = [group(count, layer) for layer in range(3)]
    draw = torch.Generator().manual_seed(seed)
    scores = {g.site: torch.randint(0, 20, (count,), generator=draw).float() for g in groups}
    try:
        few = select(scores, groups, max(first, second), round_to)
    except WidthUnreachable:
        return
    many = select(scores, groups, min(first, second), round_to)
    assert all(set(few[site].tolist()) <= set(many[site].tolist()) for site in few)


@given(st.integers(1, 500), ratios, st.sampled_from([1, 2, 7, 32]))
def test_width_is_the_multiple_nearest_to_the_ratio(count: int, ratio: float, round_to: int) -> None:
    try:
        kept = select({group(count).site: torch.rand(count)}, [group(count)], ratio, round_to)[group(count).site]
    except WidthUnreachable:
        assert (1 - ratio) * count < round_to / 2 or count < round_to
        return
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(set(kept.tolist()))
    if ratio == 0:
        assert kept.numel() == count
    else:
        assert kept.numel() % round_to == 0
        assert abs(kept.numel() - (1 - ratio) * count) <= round_to / 2 or kept.numel() == count // round_to * round_to


def test_highest_scores_are_kept_and_ties_go_to_the_lowest_index() -> None:
    scores = {group(6).site: torch.tensor([1.0, 5.0, 1.0, 9.0, 1.0, 0.0])}
    assert select(scores, [group(6)], 0.5, 1)[group(6).site].tolist() == [0, 1, 3]


def test_width_of_zero_is_refused_with_the_reason() -> None:
    with pytest.raises(WidthUnreachable, match=r"leaves 10 of the 100 units of decoder\.0\.ffn"):
        select({group(100).site: torch.rand(100)}, [group(100)], 0.9, 64)


def test_a_unit_of_tied_groups_is_ranked_by_its_score_per_parameter() -> None:
    """Removed from two layers at once it costs twice its score, and has twice its parameters."""
    tied = [
        Group(Site("encoder", layer, "heads"), "heads", 4, 10, (), "", "input", 1, (("heads", 1),), tie="encoder.heads")
        for layer in range(2)
    ]
    alone = Group(Site("encoder", 0, "ffn"), "ffn", 4, 10, (), "", "input", 1, (("ffn", 1),))
    scores = {group.site: torch.full((4,), 3.0) + torch.arange(4) / 10 for group in tied}
    scores |= {alone.site: torch.full((4,), 4.0)}
    kept = select(scores, [alone, *tied], 1 / 3, 1, Rules(scope="global", layout="per_layer", floor=0.0))
    assert {str(site): kept_K.tolist() for site, kept_K in kept.items()} == {
        "encoder.0.heads": [2, 3],
        "encoder.1.heads": [2, 3],
        "encoder.0.ffn": [0, 1, 2, 3],
    }
