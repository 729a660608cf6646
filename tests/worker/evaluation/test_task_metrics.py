"""The metrics of tasks, compared with the libraries that define them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score

from service.contract.options import METRICS, TaskKind, TaskMetric
from worker.data.examples import Example
from worker.evaluation import task_metrics
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.evaluation.bootstrap import estimate, kept_share, metric_of
from worker.evaluation.task_metrics import FORMULAS, Array

LABELS = 4


def answers(right: list[int], given: list[int]) -> Answers:
    return Answers(AnswerScores(torch.eye(LABELS).double()[given], torch.tensor(right)))


def of_library(metric: TaskMetric, right: list[int], given: list[int]) -> float:
    if metric is TaskMetric.accuracy:
        return float(accuracy_score(right, given))
    if metric is TaskMetric.balanced_accuracy:  # balanced_accuracy_score warns of answers that are no row's label
        return float(recall_score(right, given, labels=sorted(set(right)), average="macro"))
    if metric is TaskMetric.macro_f1:
        return float(f1_score(right, given, average="macro"))
    return float(matthews_corrcoef(right, given)) if len({*right, *given}) > 1 else 0.0


PAIRS = st.lists(st.tuples(st.integers(0, LABELS - 1), st.integers(0, LABELS - 1)), min_size=1, max_size=40)


@pytest.mark.parametrize("metric", METRICS[TaskKind.classification])
@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_label_metrics_are_those_of_scikit_learn(metric: TaskMetric, pairs: list[tuple[int, int]]) -> None:
    right, given = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert metric_of(metric, answers(right, given), []) == pytest.approx(of_library(metric, right, given), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS[TaskKind.classification])
def test_interval_of_a_label_metric_is_that_of_resampled_rows(metric: TaskMetric) -> None:
    generator = np.random.default_rng(0)
    right = generator.choice(LABELS, 300, p=[0.6, 0.2, 0.15, 0.05])
    given = np.where(generator.random(300) < 0.8, right, generator.choice(LABELS, 300))
    found = estimate(metric, answers(right.tolist(), given.tolist()), [])
    drawn = []
    for _ in range(600):
        rows = generator.integers(0, 300, 300)
        drawn.append(of_library(metric, right[rows].tolist(), given[rows].tolist()))
    assert found.value == pytest.approx(of_library(metric, right.tolist(), given.tolist()))
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_thousand_labels_have_an_interval() -> None:
    right = torch.arange(1000)
    found = Answers(AnswerScores(torch.eye(1000).double(), right))
    for metric in METRICS[TaskKind.classification]:
        share = kept_share(metric, found, found, []).share
        assert share.value == pytest.approx(1.0)
        assert share.low > 0.9


@pytest.mark.parametrize("metric", METRICS[TaskKind.classification])
def test_few_rows_that_are_all_right_have_a_wide_interval(metric: TaskMetric) -> None:
    whole = answers([0, 1] * 10, [0, 1] * 10)
    share = kept_share(metric, whole, whole, []).share
    assert share.value == 1
    assert share.low < 0.97 < 1 <= share.high


def several(right: Array, given: Array) -> Answers:
    """Answers with any number of labels; 0 and 1 for each label of a row."""
    scores = AnswerScores(torch.tensor(given) - 0.5, torch.zeros(len(right), dtype=torch.long), torch.tensor(right))
    return Answers(scores)


def f1_of_library(metric: TaskMetric, right: Array, given: Array) -> float:
    """Labels that no row has and none is given do not count, as for single labels; zero where there are none."""
    if not (right.any() or given.any()):
        return 0.0
    average, absent = ("micro", 0.0) if metric is TaskMetric.micro_f1 else ("macro", np.nan)
    return float(f1_score(right, given, average=average, zero_division=absent))


@pytest.mark.parametrize("metric", METRICS[TaskKind.multi_label])
@given(st.integers(0, 2**20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_metrics_of_several_labels_are_those_of_scikit_learn(metric: TaskMetric, seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    right, given = ((generator.random((rows, LABELS)) < generator.random(LABELS) / 2).astype(float) for _ in range(2))
    expected = f1_of_library(metric, right, given)
    assert metric_of(metric, several(right, given), []) == pytest.approx(expected, abs=1e-12)
    estimate(metric, several(right, given), [])


@pytest.mark.parametrize("metric", METRICS[TaskKind.multi_label])
def test_interval_of_several_labels_is_that_of_resampled_rows(metric: TaskMetric) -> None:
    generator = np.random.default_rng(0)
    right = (generator.random((300, LABELS)) < [0.5, 0.3, 0.2, 0.1]).astype(float)
    slim, dense = (np.where(generator.random((300, LABELS)) < noise, 1 - right, right) for noise in (0.15, 0.1))
    found = kept_share(metric, several(right, slim), several(right, dense), [])
    drawn = []
    for _ in range(200):
        rows = generator.integers(0, 300, 300)
        value, whole = (f1_of_library(metric, right[rows], given[rows]) for given in (slim, dense))
        drawn.append((value, value / whole))
    for estimated, values in zip((found.metric, found.share), zip(*drawn, strict=True), strict=True):
        assert [estimated.low, estimated.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


@pytest.mark.parametrize("metric", METRICS[TaskKind.multi_label])
@pytest.mark.parametrize("labels", [2, LABELS])
def test_few_rows_whose_labels_are_all_right_have_a_wide_interval(metric: TaskMetric, labels: int) -> None:
    right = np.eye(labels)[np.arange(20) % labels]
    share = kept_share(metric, several(right, right), several(right, right), []).share
    assert share.value == 1
    assert share.low < 0.97 < 1 <= share.high


def numbers(right: list[float], given: list[float]) -> Answers:
    right_E, given_E = (torch.tensor(values, dtype=torch.float64) for values in (right, given))
    scores = AnswerScores(given_E.unsqueeze(1), torch.zeros(len(right), dtype=torch.long), right_E.unsqueeze(1))
    return Answers(scores)


def correlation(metric: TaskMetric, right: Sequence[float] | Array, given: Sequence[float] | Array) -> float:
    """That of scipy; zero where one of the two is constant."""
    if len(set(right)) == 1 or len(set(given)) == 1:
        return 0.0
    return float((pearsonr if metric is TaskMetric.pearson else spearmanr)(right, given).statistic)


# Few different numbers, so that there are ties, and large ones, so that a sum of squares loses their differences.
NUMBER_PAIRS = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 2.5, -4.0, 1e3]), st.sampled_from([1e8, 1e8 + 1, 1e8 + 3, 2e8])),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("metric", METRICS[TaskKind.regression])
@given(NUMBER_PAIRS)
@settings(max_examples=60, deadline=None)
def test_correlations_are_those_of_scipy(metric: TaskMetric, pairs: list[tuple[float, float]]) -> None:
    right, given = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    expected = correlation(metric, right, given)
    assert metric_of(metric, numbers(right, given), []) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS[TaskKind.regression])
def test_interval_of_a_correlation_is_that_of_resampled_rows(metric: TaskMetric) -> None:
    generator = np.random.default_rng(0)
    right = generator.normal(size=200).round(1)
    given, dense = right + 0.7 * generator.normal(size=200), right + 0.5 * generator.normal(size=200)
    found = kept_share(metric, numbers(list(right), list(given)), numbers(list(right), list(dense)), [])
    drawn = []
    for _ in range(600):
        rows = generator.integers(0, 200, 200)
        slim, whole = (correlation(metric, right[rows], values[rows]) for values in (given, dense))
        drawn.append((slim, slim / whole))
    for estimated, values in zip((found.metric, found.share), zip(*drawn, strict=True), strict=True):
        assert [estimated.low, estimated.high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    assert found.metric.value == pytest.approx(correlation(metric, right, given))
    assert found.share.value == pytest.approx(correlation(metric, right, given) / correlation(metric, right, dense))


@pytest.mark.parametrize("metric", METRICS[TaskKind.regression])
def test_few_numbers_that_are_all_right_have_a_wide_interval(metric: TaskMetric) -> None:
    whole = numbers([float(row) for row in range(10)], [float(row) for row in range(10)])
    share = kept_share(metric, whole, whole, []).share
    assert share.value == pytest.approx(1)
    assert share.low < 0.97 < 1 <= share.high


@pytest.mark.parametrize("metric", METRICS[TaskKind.regression])
@pytest.mark.parametrize("output", [0.1, 1e300])
def test_constant_outputs_have_no_correlation(metric: TaskMetric, output: float) -> None:
    found = estimate(metric, numbers([0.1, 0.2, 0.3] * 3, [output] * 9), [])
    assert found.value == 0


@pytest.mark.parametrize("metric", METRICS[TaskKind.regression])
def test_units_of_the_outputs_do_not_matter(metric: TaskMetric) -> None:
    right, given = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 5.0, 2.0]
    scaled = numbers(right, [1e200 * number + 3e200 for number in given])
    found, expected = estimate(metric, scaled, []), estimate(metric, numbers(right, given), [])
    assert found.model_dump() == pytest.approx(expected.model_dump())


TEXTS = ["good", "The film, a good one!", "bad plot", ""]
TARGETS = ["good", "a good film", "good plot", "good"]


def written(texts: list[str]) -> Answers:
    log_probability_EL = torch.full((len(texts), 1), -1.0, dtype=torch.float64)
    return Answers(AnswerScores(log_probability_EL, torch.zeros(len(texts), dtype=torch.long)), texts=texts)


EXAMPLES = [Example((1,), ((1, 2),), 0, target) for target in TARGETS]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("exact_match", [1, 0, 0, 0]),
        ("token_f1", [1, 0.8, 0.5, 0]),  # without articles and punctuation: 2 x 2 / (3 + 2)
        ("rouge_l", [1, 0.5, 0.5, 0]),  # "a good" of five and three words
        ("token_probability", [np.exp(-0.5)] * 4),
    ],
)
def test_text_metrics_are_means_over_the_rows(metric: str, expected: list[float]) -> None:
    for text, example, score in zip(TEXTS, EXAMPLES, expected, strict=True):
        assert metric_of(TaskMetric(metric), written([text]), [example]) == pytest.approx(score, abs=1e-6)
    found = estimate(TaskMetric(metric), written(TEXTS), EXAMPLES)
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_chrf_is_that_of_sacrebleu() -> None:
    from sacrebleu import sentence_chrf

    for text, target in zip(TEXTS, TARGETS, strict=True):
        assert task_metrics.chrf(text, [target]) == pytest.approx(sentence_chrf(text, [target]).score / 100)
    assert task_metrics.chrf("good", ["good"]) == 1
    assert 0.4 < task_metrics.chrf("bad plot", ["good plot"]) < 0.8


SCORES = {
    metric: getattr(task_metrics, metric) for metric in METRICS[TaskKind.generation] if metric in vars(task_metrics)
}


def with_others(example: Example, *others: str) -> Example:
    return replace(example, others=others)


@pytest.mark.parametrize("metric", SCORES)
def test_of_several_right_texts_the_nearest_counts(metric: TaskMetric) -> None:
    score, found = SCORES[metric], []
    for text in TEXTS:
        alone = [score(text, [target]) for target in TARGETS]
        assert score(text, TARGETS) == score(text, TARGETS[::-1]) == pytest.approx(max(alone), abs=1e-6)
        several = metric_of(metric, written([text]), [with_others(EXAMPLES[0], *TARGETS[1:])])
        assert several == pytest.approx(max(alone), abs=1e-6)
        found.append(several)
    assert len(set(found)) > 1
    assert metric_of(metric, written(["good"]), [with_others(EXAMPLES[0], "bad")]) == 1
    assert metric_of(metric, written(["bad"]), [with_others(EXAMPLES[0], "bad")]) == 1


def test_token_probability_is_that_of_the_first_right_text() -> None:
    alone, several = (
        metric_of(TaskMetric.token_probability, written(["x"]), [each])
        for each in (EXAMPLES[0], with_others(EXAMPLES[0], "longer than it"))
    )
    assert alone == several


def test_rows_with_several_right_texts_are_resampled_as_rows() -> None:
    """Rows whose text is among its right ones count as rows that are right by their only one."""
    others = [with_others(each, text) for each, text in zip(EXAMPLES, [*TEXTS[:2], "x", "y"], strict=True)] * 10
    single = [replace(each, text=text) for each, text in zip(EXAMPLES, [*TEXTS[:2], "x", "y"], strict=True)] * 10
    dense, slim = written(TEXTS * 10), written((TEXTS[:1] + ["no"] * 3) * 10)
    metric = TaskMetric.exact_match
    assert kept_share(metric, slim, dense, others) == kept_share(metric, slim, dense, single)
    assert kept_share(metric, slim, dense, others).share.value == 0.5


def test_every_metric_has_a_formula() -> None:
    assert set(FORMULAS) == set(TaskMetric) == {metric for metrics in METRICS.values() for metric in metrics}
