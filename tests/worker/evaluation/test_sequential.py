"""The sequential test of a floor under the metric, with answers made by hand."""

from functools import partial

import pytest
import torch

from service.contract.options import Collapse, TaskMetric
from worker.data.examples import Example
from worker.evaluation import sequential
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.evaluation.sequential import SequentialTest

RIGHT = torch.tensor([0] * 80 + [1] * 20)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
EXAMPLES = [Example((1,), ((2,), (3,)), label, str(label)) for label in RIGHT.tolist()]


def answers(given_E: torch.Tensor) -> Answers:
    return Answers(AnswerScores(torch.nn.functional.one_hot(given_E, 2).double(), RIGHT))


def test_a_model_that_gives_one_label_to_every_row_meets_no_floor() -> None:
    """It keeps four fifths of the accuracy."""
    test = SequentialTest(TaskMetric.accuracy, EXAMPLES, answers(RIGHT))
    constant, nearly = answers(torch.zeros_like(RIGHT)), answers(torch.where(torch.arange(100) < 30, 0, RIGHT))
    verdict = test.verdict(lambda start, end: constant.of_rows(range(start, end)), 0.6)
    assert verdict.found.kept.share.low > 0.6
    assert verdict.found.collapse is Collapse.one_label
    assert not verdict.holds
    other = test.verdict(lambda start, end: nearly.of_rows(range(start, end)), 0.6)
    assert (other.found.collapse, other.holds) == (None, True)
    assert test.measure(lambda start, end: constant.of_rows(range(start, end))).collapse is Collapse.one_label


def paired(draw: torch.Generator, rows: int, dense: float, lost: float) -> tuple[list[Example], Answers, Answers]:
    """Rows, the answers of a dense model that is right on a share of them, and those of a model that answers the share
    `lost` of the rows otherwise."""
    right_E = torch.randint(2, (rows,), generator=draw)
    dense_E = torch.where(torch.rand(rows, generator=draw) < dense, right_E, 1 - right_E)
    slim_E = torch.where(torch.rand(rows, generator=draw) < lost, 1 - dense_E, dense_E)
    found = (Answers(AnswerScores(torch.nn.functional.one_hot(given_E, 2).double(), right_E)) for given_E in (dense_E, slim_E))
    return [Example((1,), ((2,), (3,)), label, str(label)) for label in right_E.tolist()], *found


def test_early_rejections_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models near the floor, where an early end is least sure: the lower bound is above it for some of them."""
    draw, floor = torch.Generator().manual_seed(0), 0.95
    held, rejected, accepted, seen, seen_without = 0, 0, 0, 0, 0
    for number in range(120):
        examples, dense, slim = paired(draw, 320, dense=0.9, lost=(0.01, 0.03, 0.06)[number % 3])
        test = SequentialTest(TaskMetric.accuracy, examples, dense)
        verdict = test.verdict(partial(_of_rows, slim), floor)
        holds = test.measure(partial(_of_rows, slim)).kept.share.low >= floor
        held, rejected = held + holds, rejected + (holds and not verdict.holds)
        accepted += verdict.holds and not holds
        seen += verdict.examples
        with monkeypatch.context() as without:
            without.setattr(sequential, "FUTILE", 0.0)
            other = test.verdict(partial(_of_rows, slim), floor)
        assert verdict.holds <= other.holds  # nothing is accepted that was not
        seen_without += other.examples
    assert 20 < held < 100
    assert rejected <= 2
    assert accepted <= 1
    assert seen < 0.8 * seen_without


def _of_rows(answers: Answers, start: int, end: int) -> Answers:
    return answers.of_rows(range(start, end))
