"""Scores and moments of mixtures from one pass over each kind of rows, against those of a pass over the mixture."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.scoring import attribution, mixtures
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.general_rows import GeneralBatches, proportions, weighted
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.locating import locate

OPTIONS = Options(objective="margin")
# Modules without a bias and with one, whose moments are those of deviations from a mean; units without moments.
CASES = {
    "llama": ("surgeon", ("ffn", "heads")),
    "gpt2": ("surgeon", ("ffn",)),
    "opt": ("surgeon", ("layers", "ffn")),
    "qwen2": ("attribution", ("heads", "ffn")),
}


def rows_of(name: str) -> tuple[list[Batch], GeneralBatches]:
    texts = [
        replace(each, candidates=each.candidates[2:], answer=0) for each in examples(5, longest_candidate=3, seed=4)
    ]
    return batches(name, examples(6), 4), GeneralBatches(batches(name, texts, 3), "log_probability", 0.0)


def measured(name: str, rows: Sequence[Batch], criterion: str, units: Sequence[str]) -> mixtures.Measured:
    model, architecture = TINY[name](), ARCHITECTURES[name]
    return mixtures.measure(model, architecture, units, rows, criterion, OPTIONS, lambda done: None)


@pytest.mark.parametrize("name", CASES)
def test_scores_and_moments_are_those_of_a_pass_over_the_mixture(name: str) -> None:
    (criterion, units), (task, general) = CASES[name], rows_of(name)
    model, architecture = TINY[name](), ARCHITECTURES[name]
    assert mixtures.fit_in_memory(model, architecture, units)
    found = proportions(model, architecture, units, task, general, "margin")
    on_task = measured(name, task, criterion, units)
    texts = [replace(batch, objective=general.objective) for batch in general.batches]
    on_general = measured(name, texts, criterion, units)
    groups = locate(model, architecture, units)
    task_moments, general_moments = (mixtures.moments_of(groups, each) for each in (on_task, on_general))
    for weight in (0.0, 0.3, 1.0):
        batch = weighted(task, replace(general, weight=weight), found)
        expected = attribution.score(model, architecture, units, batch, criterion, OPTIONS)
        scores = mixtures.scores(on_task, on_general, found, weight, criterion, OPTIONS)
        assert scores.keys() == expected.scores.keys()
        for site, score_U in expected.scores.items():
            largest = float(score_U.abs().max())
            torch.testing.assert_close(scores[site] / largest, score_U / largest, rtol=2e-3, atol=1e-4)
        mixed = mixtures.MixedMoments(task_moments, general_moments, found, weight)
        assert mixed.keys() == (expected.moments or {}).keys()
        for path, moments in (expected.moments or {}).items():
            assert mixed[path].weight == pytest.approx(moments.weight, rel=1e-5)
            torch.testing.assert_close(mixed[path].mean_C, moments.mean_C, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mixed[path].spread_CC, moments.spread_CC, rtol=1e-3, atol=1e-4)
            for found_N, weight_N in zip(mixed[path].weights_N, moments.weights_N, strict=True):
                torch.testing.assert_close(found_N, weight_N, rtol=1e-4, atol=1e-6)
