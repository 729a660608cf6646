"""When the answers of a cut model no longer depend on the rows."""

import pytest
import torch

from service.contract.options import Collapse
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.evaluation.collapse import collapse_of

LOOP = "the same words again and " * 4


def labelled(ones: int, total: int = 100, offset: float = 0.0) -> Answers:
    """Answers to `total` rows, `ones` of them the label 1 without offsets."""
    given_E = (torch.arange(total) < ones).long()
    scores = torch.nn.functional.one_hot(given_E, 2).double()
    return Answers(AnswerScores(scores, torch.zeros(total, dtype=torch.long)), torch.tensor([0.0, offset]).double())


def written(*texts: str) -> Answers:
    return Answers(AnswerScores(torch.zeros(len(texts), 1), torch.zeros(len(texts), dtype=torch.long)), texts=[*texts])


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (95, 68, Collapse.one_label),
        (100, 85, Collapse.one_label),
        (94, 50, None),
        (96, 85, None),
        (3, 50, Collapse.one_label),
    ],
)
def test_one_label_for_nearly_every_row_is_a_collapse(now: int, before: int, expected: Collapse | None) -> None:
    assert collapse_of(labelled(now), labelled(before)) is expected


def test_the_answers_are_those_with_label_offsets() -> None:
    assert collapse_of(labelled(50, offset=5.0), labelled(50)) is Collapse.one_label


@pytest.mark.parametrize(
    ("slim", "dense", "expected"),
    [
        (["", " ", "a", "b"], ["a", "b", "c", "d"], Collapse.empty),
        (["", "a", "b", "c"], ["a", "b", "c", "d"], None),
        (["", " ", "a", "b"], ["", "b", "c", " "], None),
        ([LOOP, LOOP, "a", "b"], ["a", "b", "c", "d"], Collapse.repetition),
        ([LOOP, "a", "b", "c"], ["a", "b", "c", "d"], None),
    ],
)
def test_most_texts_empty_or_repeating_is_a_collapse(
    slim: list[str], dense: list[str], expected: Collapse | None
) -> None:
    assert collapse_of(written(*slim), written(*dense)) is expected


def test_numbers_and_tags_do_not_collapse() -> None:
    numbers = Answers(AnswerScores(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long), torch.zeros(4, 1)))
    tags = Answers(AnswerScores(torch.eye(4, 2), torch.zeros(4, dtype=torch.long), words_R=torch.tensor([2, 2])))
    assert collapse_of(numbers, numbers) is None
    assert collapse_of(tags, tags) is None
