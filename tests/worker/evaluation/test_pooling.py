"""The metrics and answers of several tasks as a union reports them."""

import pytest

from service.contract.report import Confusion
from service.contract.result import Estimate, Metrics
from worker.evaluation.metrics import wilson
from worker.evaluation.pooling import pooled_answers, pooled_metrics


def test_pooled_shares_are_counted_over_all_rows() -> None:
    half, all_right = wilson(5, 10), wilson(30, 30)
    found = pooled_metrics(
        [
            Metrics(examples=10, accuracy=half, majority=0.5, log_likelihood=-2.0),
            Metrics(examples=30, accuracy=all_right, majority=0.9, log_likelihood=-1.0),
        ]
    )
    assert found.accuracy == wilson(35, 40)
    assert found.examples == 40
    assert found.majority == pytest.approx(0.8)
    assert found.log_likelihood == pytest.approx(-1.25)
    assert found.exact_match is None


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
    alone = Metrics(examples=3, accuracy=Estimate(value=0.1, low=0.0, high=0.2))
    assert pooled_metrics([alone]) is alone
