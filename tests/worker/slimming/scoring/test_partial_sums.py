"""Sums that are measured on parts of the rows give the scores of one pass over all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, encoder_decoder
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring import attribution, second_moments
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.partial_sums import PartialSums, Scoring, added, by_batches, by_rows, measure, score
from worker.slimming.scoring.second_moments import Moments, collect
from worker.slimming.units.groups import Group, Scores
from worker.slimming.units.locating import locate

PARTS = (slice(0, 5), slice(5, 7), slice(7, 16))
SPLIT = sorted(name for name, formula in CRITERIA.items() if not formula.needs_general)


def assert_equal(left: Scores, right: Scores) -> None:
    assert left.keys() == right.keys()
    for site, expected in right.items():
        torch.testing.assert_close(left[site], expected, rtol=5e-4, atol=float(expected.abs().max()) * 1e-5)


def into(found: dict[str, Moments]) -> Callable[[Group, Moments], None]:
    return lambda group, moments: found.update({group.module: moments})


def scored_in_parts(scoring: Scoring, parts: Sequence[Sequence[Batch]]) -> attribution.Scored:
    moments: list[dict[str, Moments]] = [{} for _ in parts]
    sums: list[PartialSums] = []
    for found, part in zip(moments, parts, strict=True):
        sums.append(measure(scoring, part, into(found)))

    def whole(group: Group) -> Moments:
        return second_moments.added([found[group.module] for found in moments])

    return score(scoring, added(sums), whole)


@pytest.mark.parametrize("criterion", SPLIT)
def test_every_criterion_scores_parts_as_one_pass(criterion: str) -> None:
    served = [unit for unit in ("ffn", "heads", "layers", "experts") if unit not in CRITERIA[criterion].unserved]
    family, units = ("qwen3_moe", served) if served == ["experts"] else ("llama", [*served[:2]])
    check(family, units, criterion)


@pytest.mark.parametrize("family", ["gpt2", "t5", "bert"])
def test_surgeon_scores_parts_as_one_pass_with_biases_and_several_stacks(family: str) -> None:
    check(family, ["ffn"], "surgeon")


def check(family: str, units: list[str], criterion: str) -> None:
    torch.manual_seed(0)
    model, rows = TINY[family](), examples(16)
    scoring = Scoring(model, ARCHITECTURES[family], units, criterion, Options())
    expected = attribution.score(model, scoring.architecture, units, batches(family, rows, 4), criterion, Options())
    found = scored_in_parts(scoring, [batches(family, rows[part], 3) for part in PARTS])
    assert_equal(found.scores, expected.scores)
    assert (found.moments is None) == (expected.moments is None)
    for path, moments in (expected.moments or {}).items():
        assert found.moments is not None
        torch.testing.assert_close(found.moments[path].mean_C, moments.mean_C, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.moments[path].spread_CC, moments.spread_CC, rtol=1e-4, atol=1e-5)


def test_moments_about_another_origin_are_those_of_the_same_tokens() -> None:
    draw = torch.Generator().manual_seed(1)
    inputs_NC = torch.randn(40, 6, generator=draw) + 30
    weights_N = torch.rand(40, generator=draw)

    def moments(rows: slice) -> Moments:
        empty: dict[str, Any] = {"origin_C": torch.zeros(6), "sum_C": torch.zeros(6).double()}
        found = Moments(True, 0, 0.0, gram_CC=torch.zeros(6, 6), effect_OO=None, **empty)
        found.add(inputs_NC[rows], weights_N[rows])
        return found

    whole, joined = moments(slice(40)), second_moments.added([moments(slice(13)), moments(slice(13, 40))])
    torch.testing.assert_close(joined.mean_C, whole.mean_C)
    torch.testing.assert_close(joined.spread_CC, whole.spread_CC, rtol=1e-4, atol=1e-5)
    assert (joined.num_tokens, torch.cat(joined.weights_N).numel()) == (40, 40)


def test_weights_of_tokens_are_carried_from_one_batching_to_another() -> None:
    model, rows = encoder_decoder("t5"), examples(9, longest_candidate=3)
    groups = locate(model, ARCHITECTURES["t5"], ["ffn"])
    for size in (2, 9):
        few, many = batches("t5", rows, 4), batches("t5", rows[::-1], size)
        for number, batch in enumerate(many):  # the same examples in another order
            batch.index_E.copy_(torch.arange(8 - number * size, 8 - number * size - batch.num_examples, -1))

        def weights(of: Sequence[Batch]) -> dict[str, list[Tensor]]:
            with attribution.prepared(model):
                return {path: found.weights_N for path, found in collect(model, groups, of, "margin").items()}

        mine, theirs = weights(few), weights(many)
        for group in groups:
            carried = by_batches(many, group.site.stack, by_rows(few, group.site.stack, mine[group.module]))
            for got, expected in zip(carried, theirs[group.module], strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
