"""The metrics of one model: what ships, the same without label offsets, and what a constant answer has."""

import math

import pytest
import torch
from scipy.stats import norm

from service.contract.answers.result import Metrics
from service.contract.options import Supervision, TaskMetric
from worker.data.examples import Example
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.evaluation.judging import judge, repeats_itself, wilson
from worker.evaluation.label_offsets import fit

TARGETS = [Example((1,), ((5, 2),), 0, "good")] * 5


def labelled(answer_E: torch.Tensor) -> list[Example]:
    return [Example((1,), ((5,), (6,)), answer, "") for answer in answer_E.tolist()]


def judged(metric: TaskMetric, answers: Answers) -> Metrics:
    return judge(metric, answers, labelled(answers.scores.answer_E), Supervision.labels)


def test_accuracy_is_the_share_of_right_labels() -> None:
    score_EL = torch.tensor([[-1.0, -2.0]] * 3 + [[-2.0, -1.0]], dtype=torch.float64)
    metrics = judged(TaskMetric.accuracy, Answers(AnswerScores(score_EL, torch.tensor([0, 0, 0, 1]))))
    assert (metrics.examples, metrics.metric, metrics.value.value) == (4, TaskMetric.accuracy, 1.0)
    assert metrics.raw == metrics.value == wilson(4, 4)
    assert metrics.majority == metrics.constant == 0.75
    assert metrics.log_likelihood == -1.0


def test_offsets_change_the_value_and_not_the_raw_figure() -> None:
    generator = torch.Generator().manual_seed(0)
    answer_E = torch.tensor([0, 1] * 50)
    evidence_EL = torch.nn.functional.one_hot(answer_E, 2) + 0.1 * torch.randn(100, 2, generator=generator)
    scores = AnswerScores((evidence_EL + torch.tensor([9.0, 0.0])).double(), answer_E)
    metrics = judged(TaskMetric.accuracy, Answers(scores, fit(scores.score_EL, answer_E)))
    assert metrics.raw is not None
    assert (metrics.raw.value, metrics.value.value) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("metric", "constant"),
    [("accuracy", 0.75), ("balanced_accuracy", 0.5), ("macro_f1", 3 / 7), ("matthews", 0.0)],
)
def test_constant_answer_has_the_metric_that_scikit_learn_gives_it(metric: str, constant: float) -> None:
    scores = AnswerScores(torch.eye(2).double()[[0, 1, 0, 1]], torch.tensor([0, 0, 0, 1]))
    assert judged(TaskMetric(metric), Answers(scores)).constant == pytest.approx(constant)


def test_several_labels_are_judged_with_and_without_offsets() -> None:
    output_EL = torch.tensor([[1.0, -1.0], [2.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    target_EL = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    scores = AnswerScores(output_EL, torch.zeros(3, dtype=torch.long), target_EL)
    answers = Answers(scores, offset_L=torch.tensor([-1.5, 2.0]).double())
    metrics = judge(TaskMetric.micro_f1, answers, [Example((1,), ((0,), (1,)), 0, "")] * 3, Supervision.labels)
    assert metrics.raw is not None
    assert (metrics.value.value, metrics.raw.value) == pytest.approx((6 / 7, 6 / 8))
    assert answers.given(["a", "b"]) == ["b", "a, b", "no label"]
    # always the first label: 2 of 3 are right, and 2 are missing
    assert (metrics.constant, metrics.majority) == pytest.approx((4 / 7, 2 / 3))
    log_odds = [1, -1, 2, 1, -1, 3]
    assert metrics.log_likelihood == pytest.approx(-sum(math.log1p(math.exp(-number)) for number in log_odds) / 3)


def test_numbers_have_a_mean_squared_error_and_no_label_figures() -> None:
    output_EL, target_EL = (torch.tensor([row], dtype=torch.float64).T for row in ([1.0, 2.0, 4.0], [1.0, 3.0, 6.0]))
    answers = Answers(AnswerScores(output_EL, torch.zeros(3, dtype=torch.long), target_EL))
    metrics = judge(TaskMetric.pearson, answers, [Example((1,), ((0,),), 0, "")] * 3, Supervision.labels)
    assert metrics.mean_squared_error == pytest.approx(5 / 3)
    assert (metrics.constant, metrics.majority, metrics.raw, metrics.log_likelihood) == (0.0, None, None, None)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (7, 10), (200, 200), (93, 100)])
def test_interval_of_a_share_is_the_wilson_interval(right: int, total: int) -> None:
    estimate = wilson(right, total)
    z, p = norm.ppf(0.975), right / total
    middle, scale = (p + z * z / (2 * total)), 1 + z * z / total
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    assert estimate.value == p
    assert estimate.low == pytest.approx(max(0, (middle - half) / scale), abs=1e-12)
    assert estimate.high == pytest.approx(min(1, (middle + half) / scale), abs=1e-12)


def test_generated_target_is_an_exact_match() -> None:
    scores = AnswerScores(torch.full((5, 1), -3.0, dtype=torch.float64), torch.zeros(5, dtype=torch.long))
    answers = Answers(scores, texts=[" good", "good ", "good film", "", "bad"])
    metrics = judge(TaskMetric.exact_match, answers, TARGETS, Supervision.labels)
    assert metrics.value == wilson(2, 5)
    assert metrics.token_log_likelihood == -1.5  # two tokens a target: the word and its end
    assert (metrics.raw, metrics.majority, metrics.constant) == (None, None, None)
    assert (metrics.empty, metrics.repetition) == (0.2, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat sat on the mat while the dog ran after the ball", False),
        ("the end of the end of the end of the end of the end of", True),
        ("no no no", False),
    ],
)
def test_repetition_is_detected_in_a_text(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected
