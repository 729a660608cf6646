"""The paired bootstrap, compared with that of scipy and with its known properties."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from service.contract.options import TaskMetric
from worker.data.examples import Example
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.evaluation.bootstrap import kept_share, resampled

ACCURACY, PROBABILITY = TaskMetric.accuracy, TaskMetric.token_probability


def answers(right: list[bool]) -> Answers:
    """Answers with two labels, right where `right` is true."""
    answer_E = torch.arange(len(right)) % 2
    chosen_E = torch.where(torch.tensor(right), answer_E, 1 - answer_E)
    score_EL = torch.nn.functional.one_hot(chosen_E, 2).double() * 100
    return Answers(AnswerScores(score_EL, answer_E))


def examples(tokens: list[int]) -> list[Example]:
    return [Example((1,), (tuple(range(count)),), 0, "") for count in tokens]


def rightness(count: int, lost: int, gained: int, wrong: int) -> tuple[list[bool], list[bool]]:
    """Right answers (slim, dense) of `count` rows, ordered so that both labels are equally frequent in each group."""
    rows = [(False, True)] * lost + [(True, False)] * gained + [(False, False)] * wrong
    rows += [(True, True)] * (count - len(rows))
    slim, dense = zip(*rows, strict=True)
    return list(slim), list(dense)


def interval_of_scipy(first: Any, second: Any, statistic: Callable[..., Any]) -> list[float]:
    """The paired percentile interval of `statistic(first, second, axis)`."""
    interval = stats.bootstrap(
        (first, second),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    return [interval.low, interval.high]


def test_accuracy_interval_agrees_with_scipy() -> None:
    generator = np.random.default_rng(1)
    slim, dense = generator.random(200) < 0.85, generator.random(200) < 0.9
    counts = np.concatenate(list(resampled(np.ones(200), 200, resamples=20_000)))
    ours = np.quantile((counts @ slim) / (counts @ dense), [0.025, 0.975])
    theirs = interval_of_scipy(slim, dense, lambda slim, dense, axis: slim.sum(axis=axis) / dense.sum(axis=axis))
    assert ours == pytest.approx(theirs, abs=0.004)


def test_token_probability_interval_agrees_with_scipy() -> None:
    generator = np.random.default_rng(3)
    tokens = generator.integers(1, 9, 150)
    dense = -generator.random(150) * tokens
    slim = dense - generator.random(150) * 0.2 * tokens
    slim_scores, dense_scores = (
        Answers(AnswerScores(torch.from_numpy(column).unsqueeze(1), torch.zeros(150, dtype=torch.long)))
        for column in (slim, dense)
    )
    share = kept_share(PROBABILITY, slim_scores, dense_scores, examples(tokens.tolist())).share
    theirs = interval_of_scipy(
        slim - dense, tokens, lambda gap, tokens, axis: np.exp(gap.sum(axis=axis) / tokens.sum(axis=axis))
    )
    assert share.value == pytest.approx(np.exp((slim - dense).sum() / tokens.sum()))
    assert [share.low, share.high] == pytest.approx(theirs, abs=0.004)


def test_paired_interval_is_narrower_where_the_models_agree() -> None:
    slim, dense = rightness(400, lost=4, gained=4, wrong=40)
    paired = kept_share(ACCURACY, answers(slim), answers(dense), []).share
    shuffled = kept_share(ACCURACY, answers(slim), answers(dense[200:] + dense[:200]), []).share
    assert paired.value == shuffled.value == 1
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 2


@pytest.mark.parametrize(("count", "holds"), [(20, False), (100, False), (400, True)])
def test_few_equal_rows_have_a_wide_interval(count: int, holds: bool) -> None:
    share = kept_share(ACCURACY, answers([True] * count), answers([True] * count), []).share
    assert share.value == 1
    assert (share.low >= 0.99) is holds


@given(lost=st.integers(0, 40), gained=st.integers(0, 40), wrong=st.integers(0, 40))
def test_share_of_the_counts_lies_in_its_interval(lost: int, gained: int, wrong: int) -> None:
    slim, dense = rightness(200, lost, gained, wrong)
    found = kept_share(ACCURACY, answers(slim), answers(dense), [])
    assert found.metric.value == pytest.approx(sum(slim) / 200)
    assert found.share.value == pytest.approx(sum(slim) / sum(dense))
    assert found.share.low <= found.share.value <= found.share.high
    assert found.metric.low <= found.metric.value <= found.metric.high


def test_interval_is_reproducible() -> None:
    slim, dense = rightness(200, 9, 3, 20)
    assert kept_share(ACCURACY, answers(slim), answers(dense), []) == kept_share(
        ACCURACY, answers(slim), answers(dense), []
    )


def test_interval_widens_with_the_confidence() -> None:
    slim, dense = rightness(200, 9, 3, 20)
    usual, sure = (kept_share(ACCURACY, answers(slim), answers(dense), [], level).share for level in (0.95, 0.999))
    assert sure.low < usual.low < usual.high < sure.high


def test_share_of_a_dense_metric_of_zero_is_zero() -> None:
    share = kept_share(ACCURACY, answers([True] * 20), answers([False] * 20), []).share
    assert share.value == 0


def test_interval_covers_the_true_share() -> None:
    """Simulated: 2 % of 300 rows are lost and 1 % gained; the true share is (0.9 - 0.02 + 0.01) / 0.9."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        lost, gained, wrong, _both = generator.multinomial(300, [0.02, 0.01, 0.09, 0.88])
        slim, dense = rightness(300, lost, gained, wrong)
        share = kept_share(ACCURACY, answers(slim), answers(dense), []).share
        covered += share.low <= 0.89 / 0.90 <= share.high
    assert covered >= 0.9 * 200
