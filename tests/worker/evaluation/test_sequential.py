"""The sequential test of a floor under the metric, with answers made by hand."""

import torch

from service.contract.options import Collapse, TaskMetric
from worker.data.examples import Example
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
