"""The answers of two models, and their differences."""

import torch

from service.contract.options import TaskKind
from service.contract.request.task import DataSource, Task
from service.rows.row import Row
from worker.evaluation import answers
from worker.evaluation.answer_scores import AnswerScores

LABELS = ["bad", "good"]
RIGHT = ["bad", "good", "good", "bad"]
DENSE = ["bad", "good", "bad", "bad"]
SLIM = ["good", "good", "good", "bad"]


def test_answer_is_the_label_with_the_highest_score() -> None:
    scores = AnswerScores(torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 0]))
    assert answers.Answers(scores).given(LABELS) == LABELS


def test_answer_is_the_label_with_the_highest_score_and_offset() -> None:
    scores = AnswerScores(torch.tensor([[-1.0, -2.0], [-3.0, -0.5]]), torch.tensor([0, 0]))
    moved = answers.Answers(scores, torch.tensor([0.0, 1.5]))
    assert moved.given(LABELS) == ["good", "good"]
    assert moved.raw.given(LABELS) == LABELS
    assert moved.of_rows([1]).given(LABELS) == ["good"]
    assert answers.concatenated([moved.of_rows([0]), moved.of_rows([1])]).given(LABELS) == ["good", "good"]


def test_confusion_matrix_counts_every_row_once() -> None:
    found = answers.confusion(LABELS, RIGHT, DENSE, SLIM)
    assert found.dense == [[2, 0], [1, 1]]
    assert found.slim == [[1, 1], [0, 2]]


def test_changed_rows_have_their_line_and_the_columns_of_the_template() -> None:
    rows = [Row({"text": word, "other": "x"}, line) for line, word in enumerate(("a", "b", "c" * 1000, "d"), start=1)]
    task = Task(kind=TaskKind.classification, template="{text}?", calibration=DataSource(uri="file:///rows.jsonl"))
    found = answers.changed(task, rows, [(label,) for label in RIGHT], DENSE, SLIM)
    assert [(row.line, row.right, row.dense, row.slim) for row in found] == [
        (1, "bad", "bad", "good"),
        (3, "good", "bad", "good"),
    ]
    assert found[0].fields == {"text": "a"}
    assert len(found[1].fields["text"]) < 1000
