"""The metrics and answers of several tasks as a union reports them."""

import pytest

from service.contract.answers.report import Confusion
from service.contract.answers.result import Estimate, Metrics
from service.contract.options import TaskMetric
from worker.evaluation.judging import wilson
from worker.evaluation.pooling import pooled_answers, pooled_metrics

ACCURACY = TaskMetric.accuracy


def test_pooled_shares_are_counted_over_all_rows() -> None:
    half, all_right = wilson(5, 10), wilson(30, 30)
    found = pooled_metrics(
        [
            Metrics(
                examples=10, metric=ACCURACY, value=half, raw=half, constant=0.5, majority=0.5, log_likelihood=-2.0
            ),
            Metrics(examples=30, metric=ACCURACY, value=all_right, constant=0.9, majority=0.9, log_likelihood=-1.0),
        ]
    )
    assert (found.metric, found.value, found.raw) == (ACCURACY, wilson(35, 40), half)
    assert found.examples == 40
    assert found.majority == found.constant == pytest.approx(0.8)
    assert found.log_likelihood == pytest.approx(-1.25)
    assert found.repetition is None


def test_tasks_with_different_metrics_have_the_mean_of_their_metrics() -> None:
    tasks = [(ACCURACY, 0.9, 0.03), (TaskMetric.matthews, 0.5, 0.04)]
    found = pooled_metrics(
        [
            Metrics(
                examples=10,
                metric=metric,
                value=Estimate(value=value, low=value - half, high=value + half),
                constant=constant,
            )
            for (metric, value, half), constant in zip(tasks, (0.6, 0.0), strict=True)
        ]
    )
    assert (found.metric, found.raw) == (None, None)
    assert found.constant == pytest.approx(0.3)
    assert (found.value.low, found.value.value, found.value.high) == pytest.approx((0.675, 0.7, 0.725))


def test_confusion_matrices_of_several_tasks_are_blocks_of_one() -> None:
    one = Confusion(labels=["a", "b"], dense=[[1, 2], [3, 4]], slim=[[1, 0], [0, 1]])
    other = Confusion(labels=["a"], dense=[[5]], slim=[[6]])
    confusion, changed = pooled_answers({"x": (one, []), "y": (other, [])})
    assert confusion is not None
    assert confusion.labels == ["x: a", "x: b", "y: a"]
    assert confusion.dense == [[1, 2, 0], [3, 4, 0], [0, 0, 5]]
    assert changed == []
    assert pooled_answers({"x": (one, [])})[0] == one


def test_metrics_of_a_single_task_are_unchanged() -> None:
    alone = Metrics(examples=3, value=Estimate(value=0.1, low=0.0, high=0.2))
    assert pooled_metrics([alone]) is alone
