"""How much of the dense model's metric a slim model keeps, with a paired bootstrap interval.

Both models answer the same rows, so that the rows which both get right or both get wrong add nothing to the interval:
what is resampled is the pair. A row counts as (slim, dense, size), and the metric of a model is `link` of the sum of
its column divided by the sum of the sizes.

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
from worker.evaluation.metrics import Scores, calibrated

Array = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4000
CHUNK = 2**22  # counts that are drawn at once


@dataclass(frozen=True)
class Metric:
    """One way to sum a model up: what a row counts as, and how the sums become the metric."""

    name: Literal["calibrated_accuracy", "token_probability"]
    outcome_ES: Callable[[Scores, Scores, Sequence[Example]], Array]
    link: Callable[[Array], Array]
    prior_CS: Array  # outcomes that are added, half of one each


@dataclass(frozen=True)
class Kept:
    """A slim model beside the dense one on the same rows."""

    metric: Estimate  # of the slim model
    share: Estimate  # of the dense model's


def _rightness_ES(slim: Scores, dense: Scores, _: Sequence[Example]) -> Array:
    """1 where the calibrated answer is right; each model is calibrated on these very rows."""
    right = [calibrated(scores.log_probability_EL).argmax(dim=1) == scores.answer_E for scores in (slim, dense)]
    columns = [right_E.double().numpy() for right_E in right]
    return np.stack([*columns, np.ones_like(columns[0])], axis=1)


def _likelihood_ES(slim: Scores, dense: Scores, examples: Sequence[Example]) -> Array:
    """log P of the target's tokens, its end included, and how many they are."""
    tokens = [float(len(example.candidates[0])) for example in examples]
    columns = [scores.log_probability_EL[:, 0].numpy() for scores in (slim, dense)]
    return np.stack([*columns, np.array(tokens)], axis=1)


METRICS: dict[TaskKind, Metric] = {
    TaskKind.classification: Metric(
        "calibrated_accuracy",
        _rightness_ES,
        link=lambda mean: mean,
        # Rows that all agree would have an interval of no width, however few they are: half a row is added to each of
        # the four outcomes, as Agresti & Min do for the difference of paired shares (doi 10.1002/sim.1781).
        prior_CS=np.array([[slim, dense, 1.0] for slim in (0.0, 1.0) for dense in (0.0, 1.0)]),
    ),
    TaskKind.generation: Metric("token_probability", _likelihood_ES, link=np.exp, prior_CS=np.empty((0, 3))),
}


def kept(
    metric: Metric, slim: Scores, dense: Scores, examples: Sequence[Example], confidence: float = CONFIDENCE
) -> Kept:
    """The slim model's metric and its share of the dense one's, each with its interval."""
    outcome_ES = metric.outcome_ES(slim, dense, examples)
    weight_E = np.ones(len(outcome_ES))
    sum_BS = resampled(
        np.concatenate([outcome_ES, metric.prior_CS]),
        np.concatenate([weight_E, np.full(len(metric.prior_CS), 0.5)]),
        len(outcome_ES),
    )
    figures = [_figures(metric, sums) for sums in (outcome_ES.sum(axis=0, keepdims=True), sum_BS)]
    return Kept(*(_estimate(float(value[0]), drawn, confidence) for value, drawn in zip(*figures, strict=True)))


def _figures(metric: Metric, sum_BS: Array) -> tuple[Array, Array]:
    """(metric of the slim model, its share of the dense one's); a dense model that gets nothing right keeps nothing."""
    slim_B, dense_B = metric.link(sum_BS[:, 0] / sum_BS[:, 2]), metric.link(sum_BS[:, 1] / sum_BS[:, 2])
    return slim_B, np.divide(slim_B, dense_B, out=np.zeros_like(slim_B), where=dense_B > 0)


def resampled(outcome_CS: Array, weight_C: Array, size: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Column sums of `resamples` samples of `size` rows each, an outcome drawn as often as its weight says (B, S).

    Equal outcomes are drawn together: a sample is their counts, which are multinomial.
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
