"""The share of the dense model's metric that a slim model keeps, with a paired bootstrap interval.

Both models answer the same rows, and rows are resampled with the outcomes of both models, so that a row with equal
outcomes does not widen the interval. The outcome of a row is (slim, dense, size). The metric of a model is `link` of
(the sum of its column / the sum of the sizes).

Shape suffixes: E examples, C distinct outcomes, B resamples, S the three columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.contract.options import TaskKind
from service.contract.result import Estimate
from worker.data.prompts import Example
from worker.evaluation.metrics import CONFIDENCE, AnswerScores, calibrated

Array = NDArray[np.float64]

RESAMPLES = 4000
CHUNK = 2**22  # counts drawn at once


@dataclass(frozen=True)
class Metric:
    """A metric of a model: the outcome of each row, and the function of the sums of outcomes that is the metric."""

    name: Literal["calibrated_accuracy", "token_probability"]
    outcome_ES: Callable[[AnswerScores, AnswerScores, Sequence[Example]], Array]
    link: Callable[[Array], Array]
    prior_CS: Array  # outcomes that are added to those of the rows, with a weight of one half each


@dataclass(frozen=True)
class KeptShare:
    """The metric of a slim model, and its share of the dense model's metric on the same rows."""

    metric: Estimate  # of the slim model
    share: Estimate  # of the dense model's


def _correct_ES(slim: AnswerScores, dense: AnswerScores, _examples: Sequence[Example]) -> Array:
    """1 for each model whose calibrated answer is right; both models are calibrated on these rows."""
    right = [calibrated(scores.log_probability_EL).argmax(dim=1) == scores.answer_E for scores in (slim, dense)]
    columns = [right_E.double().numpy() for right_E in right]
    return np.stack([*columns, np.ones_like(columns[0])], axis=1)


def _likelihood_ES(slim: AnswerScores, dense: AnswerScores, examples: Sequence[Example]) -> Array:
    """The log-probability of the target's tokens, the end token included, and their number."""
    tokens = [float(len(example.candidates[0])) for example in examples]
    columns = [scores.log_probability_EL[:, 0].numpy() for scores in (slim, dense)]
    return np.stack([*columns, np.array(tokens)], axis=1)


METRICS: dict[TaskKind, Metric] = {
    TaskKind.classification: Metric(
        "calibrated_accuracy",
        _correct_ES,
        link=lambda mean: mean,
        # Without a prior, few rows with equal outcomes would have an interval of no width. Half a row is added to each
        # of the four outcomes, as Agresti & Min do for the difference of paired shares (doi 10.1002/sim.1781).
        prior_CS=np.array([[slim, dense, 1.0] for slim in (0.0, 1.0) for dense in (0.0, 1.0)]),
    ),
    TaskKind.generation: Metric("token_probability", _likelihood_ES, link=np.exp, prior_CS=np.empty((0, 3))),
}


def kept_share(
    metric: Metric, slim: AnswerScores, dense: AnswerScores, examples: Sequence[Example], confidence: float = CONFIDENCE
) -> KeptShare:
    """The slim model's metric and its share of the dense model's, each with its interval."""
    outcome_ES = metric.outcome_ES(slim, dense, examples)
    weight_E = np.ones(len(outcome_ES))
    sum_BS = resampled(
        np.concatenate([outcome_ES, metric.prior_CS]),
        np.concatenate([weight_E, np.full(len(metric.prior_CS), 0.5)]),
        len(outcome_ES),
    )
    figures = [_figures(metric, sums) for sums in (outcome_ES.sum(axis=0, keepdims=True), sum_BS)]
    return KeptShare(*(_estimate(float(value[0]), drawn, confidence) for value, drawn in zip(*figures, strict=True)))


def _figures(metric: Metric, sum_BS: Array) -> tuple[Array, Array]:
    """(the slim model's metric, its share of the dense model's), for each row of sums. The share of zero is zero."""
    slim_B, dense_B = metric.link(sum_BS[:, 0] / sum_BS[:, 2]), metric.link(sum_BS[:, 1] / sum_BS[:, 2])
    return slim_B, np.divide(slim_B, dense_B, out=np.zeros_like(slim_B), where=dense_B > 0)


def resampled(outcome_CS: Array, weight_C: Array, size: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """The column sums (B, S) of `resamples` samples with `size` rows each, drawn with probabilities by weight.

    Equal outcomes are counted together: the counts of a sample have a multinomial distribution.
    """
    outcome_CS, index_C = np.unique(outcome_CS, axis=0, return_inverse=True)
    probability_C = np.bincount(index_C.ravel(), weight_C) / weight_C.sum()
    generator, at_once = np.random.default_rng(seed), max(1, CHUNK // len(outcome_CS))
    parts = [
        generator.multinomial(size, probability_C, size=min(at_once, resamples - start)) @ outcome_CS
        for start in range(0, resamples, at_once)
    ]
    return np.concatenate(parts)


def _estimate(value: float, drawn_B: Array, confidence: float) -> Estimate:
    low, high = np.quantile(drawn_B, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))
