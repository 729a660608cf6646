"""General rows in scores and moments: the mixture against moments of each kind of rows alone, and the shared rule."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring import attribution, second_moments
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.general_rows import GeneralBatches, difference, effect, mixture, shared_exclusive
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.groups import Site
from worker.slimming.units.locating import locate

LLAMA, UNITS = ARCHITECTURES["llama"], ("ffn", "heads")
SITE = Site("decoder", 0, "ffn")


def task_rows() -> list[Batch]:
    return batches("llama", examples(6), 4)


def general_rows(weight: float, copies: int = 1) -> GeneralBatches:
    """Rows of texts, `copies` times, with an objective of their own."""
    rows = [
        replace(each, candidates=each.candidates[2:], answer=0) for each in examples(5, longest_candidate=3, seed=4)
    ]
    return GeneralBatches(batches("llama", rows * copies, 3), "log_probability", weight)


def mixed(weight: float, copies: int = 1) -> list[Batch]:
    return mixture(TINY["llama"](), LLAMA, UNITS, task_rows(), general_rows(weight, copies), "margin")


def moments(rows: Sequence[Batch], objective: str = "margin") -> dict[str, second_moments.Moments]:
    model = TINY["llama"]()
    with attribution.prepared(model):
        return second_moments.collect(model, locate(model, LLAMA, UNITS), rows, objective, effects=True)


@pytest.mark.parametrize("weight", [0.25, 0.8, 1.0])
def test_second_moments_of_a_mixture_are_those_of_both_kinds_of_rows(weight: float) -> None:
    """H = (1 - w) H_T + w H_G: the input's per token, the effects' per example and relative to all effects."""
    general, task = general_rows(weight), task_rows()
    both, own = moments(mixed(weight)), moments(task)
    other = moments(general.batches, "log_probability")
    model = TINY["llama"]()
    scale = effect(model, LLAMA, UNITS, task, "margin") / effect(
        model, LLAMA, UNITS, general.batches, "log_probability"
    )
    for path, found in both.items():
        uniform_CC = (1 - weight) * gram(own[path]) + weight * gram(other[path])
        torch.testing.assert_close(found.gram_CC, uniform_CC * own[path].num_tokens, rtol=1e-4, atol=1e-6)
        effect_OO = (1 - weight) * effects(own[path], 6) + weight * scale * effects(other[path], 5)
        largest = float(effect_OO.abs().max())
        torch.testing.assert_close(effects(found, 6) / largest, effect_OO / largest, rtol=1e-3, atol=1e-4)


def gram(found: second_moments.Moments) -> Tensor:
    """The mean over the tokens of h h^T."""
    assert found.gram_CC is not None
    return found.gram_CC / found.num_tokens


def effects(found: second_moments.Moments, examples: int) -> Tensor:
    """The mean over the examples of g g^T."""
    assert found.effect_OO is not None
    return found.effect_OO / examples


def shares(rows: Sequence[Batch], criterion: str, objective: str = "margin") -> dict[Site, Tensor]:
    """The scores divided by their sum over all units."""
    scores = attribution.score(TINY["llama"](), LLAMA, UNITS, rows, criterion, Options(objective=objective)).scores
    total = sum(float(score_U.sum()) for score_U in scores.values())
    return {site: score_U / total for site, score_U in scores.items()}


@pytest.mark.parametrize("criterion", ["second_moment", "attribution"])
def test_a_mixture_does_not_depend_on_the_number_of_general_rows(criterion: str) -> None:
    once, twice = (shares(mixed(0.4, copies), criterion) for copies in (1, 2))
    for site in once:
        torch.testing.assert_close(once[site], twice[site], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("criterion", ["second_moment", "attribution", "surgeon"])
def test_the_weight_one_is_general_rows_alone(criterion: str) -> None:
    found, alone = shares(mixed(1.0)[2:], criterion), shares(general_rows(1.0).batches, criterion, "log_probability")
    both = shares(mixed(1.0), "second_moment")
    for site in found:
        torch.testing.assert_close(found[site], alone[site], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(both[site], shares(mixed(1.0)[2:], "second_moment")[site], rtol=1e-3, atol=1e-7)


def test_the_weight_zero_is_the_task_alone() -> None:
    assert all(batch.weight == batch.gradient_scale == 1 and not batch.objective for batch in mixed(0.0))
    assert len(mixed(0.0)) == len(task_rows())


def test_squared_attributions_of_a_mixture_have_the_shares_of_the_weight() -> None:
    """Summed over all units, that of general rows is w of the whole."""
    rows, objective = mixed(0.3), Options(objective="margin")
    parts = {
        name: attribution.score(TINY["llama"](), LLAMA, UNITS, part, "second_moment", objective).scores
        for name, part in (("all", rows), ("general", rows[2:]))
    }
    whole, general = (sum(float(score_U.sum()) for score_U in parts[name].values()) for name in ("all", "general"))
    assert general / whole == pytest.approx(0.3, rel=1e-4)


def test_exclusive_units_count_on_their_own_rows_and_shared_ones_on_both() -> None:
    norms = {SITE: torch.tensor([3.0, 1.0, 2.0])}, {SITE: torch.tensor([1.0, 3.0, 2.0])}
    scores = {SITE: torch.tensor([4.0, 1.0, 1.0])}, {SITE: torch.tensor([1.0, 2.0, 3.0])}
    torch.testing.assert_close(difference(norms[0][SITE], norms[1][SITE]), torch.tensor([0.5, -0.5, 0.0]))
    fused_U = shared_exclusive(*scores, *norms, 0.25)[SITE]
    torch.testing.assert_close(fused_U, torch.tensor([0.75 * 2.0, 0.25 * 1.0, 1.5]))
