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
    scores = (AnswerScores(torch.nn.functional.one_hot(each, 2).double(), right_E) for each in (dense_E, slim_E))
    examples = [Example((1,), ((2,), (3,)), label, str(label)) for label in right_E.tolist()]
    dense_answers, slim_answers = map(Answers, scores)
    return examples, dense_answers, slim_answers


def test_early_rejections_are_those_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models near the floor, where an early end is least sure: the lower bound is above it for some of them."""
    draw, floor = torch.Generator().manual_seed(0), 0.95
    held = saved = 0
    for number in range(36):
        examples, dense, slim = paired(draw, 320, dense=0.9, lost=(0.01, 0.04, 0.08)[number % 3])
        test, answer = SequentialTest(TaskMetric.accuracy, examples, dense), partial(_of_rows, slim)
        verdict = test.verdict(answer, floor)
        if verdict.examples == 320:
            held += verdict.holds
            continue
        holds = test.measure(answer).kept.share.low >= floor
        held += holds
        assert verdict.holds is holds
        with monkeypatch.context() as without:
            without.setattr(sequential, "FUTILE", 0.0)
            saved += test.verdict(answer, floor).examples - verdict.examples
    assert 6 < held < 30
    assert saved > 320


def _of_rows(answers: Answers, start: int, end: int) -> Answers:
    return answers.of_rows(range(start, end))
