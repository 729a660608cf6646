"""A model's metric, and the share of the dense model's metric that a slim model keeps, with bootstrap intervals.

Both models answer the same rows, and rows are resampled with the outcomes of both models, so that a row with equal
outcomes does not widen the interval. Without a prior, few rows with equal outcomes would have an interval of no width:
half a row is added for each of the four cases that slim and dense model are right or wrong, as Agresti & Min do for the
difference of paired shares (doi 10.1002/sim.1781). For a regression these are the cases that a model gives the right
number or the mean.

Shape suffixes as in `worker.evaluation.task_metrics`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.contract.answers.result import Estimate
from service.contract.options import TaskMetric
from worker.data.examples import Example
from worker.evaluation.answers import Answers
from worker.evaluation.task_metrics import Array, Counts, Figure, formula_of

CONFIDENCE = 0.95  # of every interval that a result has
RESAMPLES = 4000
CHUNK = 2**22  # counts drawn at once


@dataclass(frozen=True)
class KeptShare:
    """The metric of a slim model, and its share of the dense model's metric on the same rows."""

    metric: Estimate  # of the slim model
    share: Estimate  # of the dense model's


def estimate(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> Estimate:
    """The metric of one model with its interval."""
    return kept_share(metric, answers, answers, examples).metric


def metric_of(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> float:
    """The metric of one model."""
    formula = formula_of(metric, answers)
    outcome_EK = formula.outcome_EK(answers, examples)
    return float(formula.figure(outcome_EK)(np.ones((1, len(outcome_EK)), dtype=np.int64))[0])


def kept_share(
    metric: TaskMetric, slim: Answers, dense: Answers, examples: Sequence[Example], confidence: float = CONFIDENCE
) -> KeptShare:
    """The slim model's metric and its share of the dense model's, each with its interval."""
    formula = formula_of(metric, slim)
    outcome_EK = [formula.outcome_EK(answers, examples) for answers in (slim, dense)]
    both_EK, (prior_CK, prior_C) = np.concatenate(outcome_EK, axis=1), formula.prior(outcome_EK[0])
    distinct_CK, index_C = np.unique(np.concatenate([both_EK, prior_CK]), axis=0, return_inverse=True)
    weight_C = np.bincount(index_C.ravel(), np.concatenate([np.ones(len(both_EK)), prior_C])).astype(float)
    count_C = np.bincount(index_C.ravel()[: len(both_EK)], minlength=len(weight_C))
    pair = _Pair(*(formula.figure(half_CK) for half_CK in np.split(distinct_CK, 2, axis=1)))
    found = pair.figures(count_C[np.newaxis])
    parts = [pair.figures(count_BC) for count_BC in resampled(weight_C, len(both_EK))]
    drawn = [np.concatenate(figures) for figures in zip(*parts, strict=True)]
    return KeptShare(*(_estimate(float(f[0]), d, confidence) for f, d in zip(found, drawn, strict=True)))


@dataclass(frozen=True)
class _Pair:
    """The metrics of both models as functions of how often each distinct outcome of both is there."""

    slim: Figure
    dense: Figure

    def figures(self, count_BC: Counts) -> tuple[Array, Array]:
        """(the slim model's metric, its share of the dense model's). The share of zero or less is zero."""
        slim_B, dense_B = self.slim(count_BC), self.dense(count_BC)
        return slim_B, np.divide(slim_B, dense_B, out=np.zeros_like(slim_B), where=dense_B > 0)


def resampled(weight_C: Array, size: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Counts]:
    """How often each outcome is among `size` rows that are drawn with probabilities by weight, for all resamples (B, C)
    in parts of limited size. The counts have a multinomial distribution."""
    generator, at_once = np.random.default_rng(seed), max(1, CHUNK // len(weight_C))
    for start in range(0, resamples, at_once):
        yield generator.multinomial(size, weight_C / weight_C.sum(), size=min(at_once, resamples - start))


def _estimate(value: float, drawn_B: Array, confidence: float) -> Estimate:
    low, high = np.quantile(drawn_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
