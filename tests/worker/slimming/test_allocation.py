import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.contract.options import Normalisation
from tests.support.tiny_models import TINY, causal
from worker.slimming.allocation import NORMALISATIONS, Rules, WidthUnreachable, share_removed
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import select
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Group, Kept, Site
from worker.slimming.units.locating import locate

PER_LAYER = Rules(scope="global", layout="per_layer")
FAMILIES_WITH_HEADS = {"llama": ("ffn", "heads"), "t5": ("ffn", "heads", "head_dims")}
DEEP_LLAMA = causal("llama", num_hidden_layers=12)
GROUPS = {family: locate(TINY[family](), ARCHITECTURES[family], units) for family, units in FAMILIES_WITH_HEADS.items()}


def random_scores(groups: list[Group], seed: int = 0) -> dict[Site, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {group.site: torch.rand(group.count, generator=draw) for group in groups}


def removed(groups: list[Group], kept: Kept) -> float:
    num_removed = sum((group.count - kept[group.site].numel()) * group.parameters for group in groups)
    return num_removed / sum(group.count * group.parameters for group in groups)


def one_kind(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.kind == "ffn"]


@pytest.mark.parametrize("layout", ["uniform", "per_layer"])
@pytest.mark.parametrize("family", GROUPS)
@settings(deadline=None)
@given(first=st.floats(0.05, 0.6), second=st.floats(0.05, 0.6), seed=st.integers(0, 4))
def test_global_selection_at_a_higher_ratio_keeps_a_subset(
    family: str, layout: str, first: float, second: float, seed: int
) -> None:
    groups, rules = GROUPS[family], Rules(scope="global", layout=layout)
    if layout == "uniform":
        groups = one_kind(groups)
    scores = random_scores(groups, seed)
    few, many = (select(scores, groups, ratio, 4, rules) for ratio in (max(first, second), min(first, second)))
    assert all(set(few[site].tolist()) <= set(many[site].tolist()) for site in few)


@pytest.mark.parametrize("family", GROUPS)
@settings(deadline=None)
@given(first=st.floats(0.05, 0.6), second=st.floats(0.05, 0.6), seed=st.integers(0, 4))
def test_higher_ratio_keeps_no_more_parameters(family: str, first: float, second: float, seed: int) -> None:
    groups, rules = GROUPS[family], Rules(scope="global")
    scores = random_scores(groups, seed)
    less, more = (
        share_removed(
            groups, {site: kept_K.numel() for site, kept_K in select(scores, groups, ratio, 4, rules).items()}
        )
        for ratio in sorted([first, second])
    )
    assert less <= more


@settings(deadline=None)
@given(ratio=st.floats(0.2, 0.7), seed=st.integers(0, 9))
def test_equal_neuron_widths_make_up_for_the_size_of_a_head(ratio: float, seed: int) -> None:
    groups = GROUPS["llama"]
    kept = select(random_scores(groups, seed), groups, ratio, 1, Rules(scope="global", normalisation="mean"))
    one_neuron_of_each_layer = sum(group.parameters for group in one_kind(groups))
    total = sum(group.count * group.parameters for group in groups)
    assert removed(groups, kept) == pytest.approx(ratio, abs=0.51 * one_neuron_of_each_layer / total)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_per_layer_widths_meet_the_budget(ratio: float) -> None:
    groups = locate(causal("llama", num_hidden_layers=6), ARCHITECTURES["llama"], ["ffn", "heads"])
    kept = select(random_scores(groups), groups, ratio, 1, PER_LAYER)
    assert removed(groups, kept) == pytest.approx(ratio, abs=0.02)


def test_layer_with_high_scores_keeps_more_units() -> None:
    groups = [group for group in GROUPS["llama"] if group.kind == "ffn"]
    scores = random_scores(groups)
    scores[groups[1].site] = scores[groups[1].site] * 100 + 10
    kept = select(scores, groups, 0.4, 4, PER_LAYER)
    assert kept[groups[1].site].numel() == groups[1].count
    assert kept[groups[0].site].numel() == 8
    by_mean = Rules(scope="global", layout="per_layer", normalisation="mean")
    even = select(scores, groups, 0.4, 4, by_mean)
    assert even[groups[0].site].numel() > kept[groups[0].site].numel()


def test_normalised_heads_and_neurons_lose_the_same_share() -> None:
    groups = locate(causal("llama", num_hidden_layers=12), ARCHITECTURES["llama"], ["ffn", "heads"])
    rules = Rules(scope="global", layout="per_layer", normalisation="mean", floor=0)
    kept = select(random_scores(groups), groups, 0.3, 1, rules)
    for kind in ("ffn", "heads"):
        assert removed([group for group in groups if group.kind == kind], kept) == pytest.approx(0.3, abs=0.1)


def test_every_group_keeps_its_floor() -> None:
    groups = [group for group in GROUPS["llama"] if group.kind == "ffn"]
    scores = random_scores(groups)
    scores[groups[0].site] = scores[groups[0].site] * 1e-9
    rules = Rules(scope="global", layout="per_layer", floor=0.25)
    assert select(scores, groups, 0.3, 4, rules)[groups[0].site].numel() == 20
    assert select(scores, groups, 0.5, 4, rules)[groups[0].site].numel() == 12


def test_ratio_above_what_the_floors_allow_is_refused() -> None:
    groups = GROUPS["llama"]
    with pytest.raises(WidthUnreachable, match="more than the floors"):
        select(random_scores(groups), groups, 0.9, 4, Rules(scope="global", layout="per_layer", floor=0.5))


def test_protected_layers_stay_whole() -> None:
    groups = locate(causal("llama", num_hidden_layers=4), ARCHITECTURES["llama"], ["ffn"])
    rules = Rules(scope="global", layout="per_layer", protect_first=1, protect_last=1)
    kept = select(random_scores(groups), groups, 0.4, 4, rules)
    assert [kept[group.site].numel() == group.count for group in groups] == [True, False, False, True]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_protected_layers_are_not_removed(scope: str) -> None:
    groups = locate(causal("llama", num_hidden_layers=5), ARCHITECTURES["llama"], ["layers"])
    scores = {group.site: torch.tensor([value]) for group, value in zip(groups, [0.1, 0.5, 0.3, 0.9, 0.2], strict=True)}
    rules = Rules(scope=scope, protect_first=1, protect_last=1)
    kept = select(scores, groups, 0.4, 64, rules)
    assert [site.layer for site, kept_K in kept.items() if not kept_K.numel()] == [1, 2]
    alone = select(scores, groups, 0.6, 64, rules)
    assert [site.layer for site, kept_K in alone.items() if kept_K.numel()] == [0, 4]
    with pytest.raises(WidthUnreachable):
        select(scores, groups, 0.8, 64, rules)


def test_uniform_widths_stay_equal_under_one_threshold() -> None:
    for groups in GROUPS.values():
        kept = select(random_scores(groups), groups, 0.4, 4, Rules(scope="global"))
        for fields in {group.fields for group in groups}:
            assert len({kept[group.site].numel() // group.rows for group in groups if group.fields == fields}) == 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_with_the_lowest_scores_are_removed(scope: str) -> None:
    groups = locate(causal("llama", num_hidden_layers=5), ARCHITECTURES["llama"], ["layers"])
    scores = {group.site: torch.tensor([value]) for group, value in zip(groups, [0.5, 0.1, 0.9, 0.2, 0.4], strict=True)}
    kept = select(scores, groups, 0.4, 64, Rules(scope=scope))
    assert [site.layer for site, kept_K in kept.items() if not kept_K.numel()] == [1, 3]


@pytest.mark.parametrize("layout", ["uniform", "per_layer"])
def test_t5_keeps_the_same_heads_in_every_layer_of_a_stack(layout: str) -> None:
    groups = [group for group in GROUPS["t5"] if group.kind == "heads"]
    kept = select(random_scores(groups), groups, 0.5, 64, Rules(scope="global", layout=layout))
    for stack in ("encoder", "decoder"):
        first, second = (kept[Site(stack, layer, "heads")].tolist() for layer in (0, 1))
        assert first == second
    assert len({kept[Site("decoder", layer, "cross_heads")].numel() for layer in (0, 1)}) == 1


@settings(deadline=None)
@given(ratio=st.floats(0.1, 0.7), seed=st.integers(0, 9))
def test_layers_are_removed_by_score_even_if_the_ratio_is_missed(ratio: float, seed: int) -> None:
    groups = locate(DEEP_LLAMA, ARCHITECTURES["llama"], ["ffn", "heads", "layers"])
    scores = {
        group.site: score_U * group.parameters
        for group, score_U in zip(groups, random_scores(groups, seed).values(), strict=True)
    }
    kept = select(scores, groups, ratio, 4, Rules(scope="global"))
    layers = [group.site for group in groups if group.kind == "layers"]
    removed_scores = [float(scores[site]) for site in layers if not kept[site].numel()]
    assert max(removed_scores, default=0) <= min(float(scores[site]) for site in layers if kept[site].numel())


def test_layers_are_ranked_against_the_units_inside_them() -> None:
    groups = locate(causal("llama", num_hidden_layers=4), ARCHITECTURES["llama"], ["ffn", "layers"])
    scores = random_scores(groups)
    scores |= {Site("decoder", layer, "layers"): torch.tensor([0.0 if layer == 2 else 1e6]) for layer in range(4)}
    kept = select(scores, groups, 0.4, 4, PER_LAYER)
    assert kept[Site("decoder", 2, "layers")].numel() == 0
    layers = [group for group in groups if group.kind == "layers"]
    in_layers_that_stay = [g for g in groups if g.kind == "ffn" and g.site.layer != 2]
    num_removed = layers[2].parameters + sum(
        (group.count - kept[group.site].numel()) * group.parameters for group in in_layers_that_stay
    )
    assert num_removed / sum(group.parameters for group in layers) == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisation_keeps_the_order_within_a_group(name: str) -> None:
    score_U = torch.tensor([0.3, 2.0, -torch.inf, 0.1, 7.0], dtype=torch.float64)
    normalised = NORMALISATIONS[name](score_U)
    assert normalised.argsort().tolist() == score_U.argsort().tolist()
    assert normalised.isfinite().tolist() == score_U.isfinite().tolist()


@pytest.mark.parametrize(
    "units", [("heads", "head_dims"), ("ffn", "heads", "head_dims"), ("heads", "head_dims", "layers")]
)
def test_share_removed_is_the_share_of_removed_parameters(units: tuple[str, ...]) -> None:
    model = TINY["t5"]()
    groups = locate(model, ARCHITECTURES["t5"], units)
    owned = {part.parameter for group in groups for part in group.slices}
    before = sum(parameter.numel() for parameter in model.parameters())
    chosen = sum(model.get_parameter(name).numel() for name in owned)
    kept = select(random_scores(groups), groups, 0.4, 4, Rules(scope="global"))
    counts = {site: kept_K.numel() for site, kept_K in kept.items()}
    cut(model, ARCHITECTURES["t5"], kept)
    num_removed = before - sum(parameter.numel() for parameter in model.parameters())
    assert num_removed / chosen == pytest.approx(0.4, abs=0.15)  # one head holds an eighth of the parameters
    assert share_removed(groups, counts) == pytest.approx(num_removed / chosen, abs=0.01)


def test_contract_lists_the_normalisations() -> None:
    assert set(NORMALISATIONS) == set(Normalisation)
