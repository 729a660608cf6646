"""The answers of two models, and their differences."""

import pytest
import torch

from service.contract.options import TaskKind
from service.contract.result import DenseSlim
from service.contract.rows import Row
from service.contract.task import DataSource, Task
from worker.evaluation import answers
from worker.evaluation.latency import PassProfile
from worker.evaluation.metrics import AnswerScores, repeats_itself
from worker.reporting.findings import score_kept, throughput

LABELS = ["bad", "good"]
RIGHT = ["bad", "good", "good", "bad"]
DENSE = ["bad", "good", "bad", "bad"]
SLIM = ["good", "good", "good", "bad"]


def test_answer_is_the_label_with_the_highest_score() -> None:
    scores = AnswerScores(torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 0]))
    assert answers.chosen_labels(scores, LABELS) == LABELS


def test_confusion_matrix_counts_every_row_once() -> None:
    found = answers.confusion(LABELS, RIGHT, DENSE, SLIM)
    assert found.dense == [[2, 0], [1, 1]]
    assert found.slim == [[1, 1], [0, 2]]


def test_changed_rows_have_their_line_and_the_columns_of_the_template() -> None:
    rows = [Row({"text": word, "other": "x"}, line) for line, word in enumerate(("a", "b", "c" * 1000, "d"), start=1)]
    task = Task(kind=TaskKind.classification, template="{text}?", calibration=DataSource(uri="file:///rows.jsonl"))
    found = answers.changed(task, rows, RIGHT, DENSE, SLIM)
    assert [(row.line, row.right, row.dense, row.slim) for row in found] == [
        (1, "bad", "bad", "good"),
        (3, "good", "bad", "good"),
    ]
    assert found[0].fields == {"text": "a"}
    assert len(found[1].fields["text"]) < 1000


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


def test_score_kept_is_the_share_of_the_kept_scores() -> None:
    score_U = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert score_kept(score_U, torch.tensor([0, 1])) == 0.75
    assert score_kept(score_U, torch.arange(4)) == 1
    assert score_kept(-score_U, torch.tensor([0])) is None


def test_throughput_is_rows_per_second() -> None:
    [found] = throughput([(PassProfile(8, 64, 400.0, 9, (0.0, 0.0)), PassProfile(8, 64, 200.0, 7, (0.0, 0.0)))])
    assert (found.dense, found.slim) == (20.0, 40.0)
    assert found.peak_memory_bytes == DenseSlim(dense=9, slim=7)
