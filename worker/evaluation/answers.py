"""A model's answers to evaluation rows, and the differences between the answers of two models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from service.contract.answers.report import ChangedAnswer, Confusion
from service.contract.request.task import TaskWording
from service.rows.checks import shown_texts
from service.rows.row import Row
from worker.data.examples import Example
from worker.data.prompts import labels_text, number_text
from worker.data.tagged_texts import tags_text
from worker.evaluation import answer_scores
from worker.evaluation.answer_scores import AnswerScores

MAX_CHANGED = 50
MAX_FIELD_LENGTH = 600


@dataclass(frozen=True)
class Answers:
    """What a model answers to rows, in their order: the scores of their candidates, and the texts that it generates."""

    scores: AnswerScores  # without label offsets
    offset_L: Tensor | None = None  # label offsets, float64
    texts: list[str] | None = None  # of a generation task

    @property
    def label_E(self) -> Tensor:
        """The index of the label that the model answers, by its label offsets if it has them; of tagged texts for every
        word."""
        score_EL = self.scores.score_EL
        return (score_EL if self.offset_L is None else score_EL + self.offset_L).argmax(dim=1)

    @property
    def decision_EL(self) -> Tensor:
        """Whether the model gives each label, where several may be right, by its label offsets if it has them."""
        score_EL = self.scores.score_EL
        return (score_EL if self.offset_L is None else score_EL + self.offset_L) > 0

    @property
    def raw(self) -> "Answers":
        """The answers without label offsets."""
        return replace(self, offset_L=None)

    def given(self, labels: Sequence[str]) -> list[str]:
        """The texts, the numbers of a regression, the tags or the label or labels of every row."""
        if self.scores.words_R is not None:
            ends = self.scores.words_R.cumsum(dim=0).tolist()
            tags = self.label_E.tolist()
            return [tags_text(tags[start:end], labels) for start, end in zip([0, *ends], ends, strict=False)]
        if self.scores.target_EL is not None and labels:
            return [labels_text(labels, decision_L) for decision_L in self.decision_EL.tolist()]
        if self.scores.target_EL is not None:
            return [number_text(number) for number in self.scores.score_EL[:, 0].tolist()]
        return [labels[index] for index in self.label_E.tolist()] if self.texts is None else self.texts

    def of_rows(self, rows: Sequence[int]) -> "Answers":
        """The answers to some of the rows."""
        texts = None if self.texts is None else [self.texts[row] for row in rows]
        return replace(self, scores=self.scores.of_rows(list(rows)), texts=texts)


def concatenated(parts: Sequence[Answers]) -> Answers:
    """The answers of one model to the rows of all parts, in their order."""
    scores = answer_scores.concatenated([part.scores for part in parts])
    texts = None if parts[0].texts is None else [text for part in parts for text in part.texts or ()]
    return Answers(scores, parts[0].offset_L, texts)


def right_labels(examples: Sequence[Example], labels: Sequence[str]) -> list[str]:
    """The right label of every example."""
    return [labels[example.answer] for example in examples]


def confusion(labels: Sequence[str], right: Sequence[str], dense: Sequence[str], slim: Sequence[str]) -> Confusion:
    """The confusion matrices of both models: rows are right labels, columns are answers."""
    return Confusion(labels=list(labels), dense=_matrix(labels, right, dense), slim=_matrix(labels, right, slim))


def changed(
    task: TaskWording,
    rows: Sequence[Row],
    right: Sequence[Sequence[str]],
    dense: Sequence[str],
    slim: Sequence[str],
    *,
    answered: bool = True,
) -> list[ChangedAnswer]:
    """The rows that the models answer differently, in the order of the data set, with the right answers of each. Rows
    that are not `answered` came without."""
    return [
        ChangedAnswer(
            line=row.line,
            fields={name: _shortened(text) for name, text in shown_texts(row, task, answered=answered).items()},
            right=_shortened(answer),
            others=[_shortened(other) for other in others],
            dense=_shortened(before),
            slim=_shortened(now),
        )
        for row, (answer, *others), before, now in zip(rows, right, dense, slim, strict=True)
        if before != now
    ]


def _matrix(labels: Sequence[str], right: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
    pairs = Counter(zip(right, answers, strict=True))
    return [[pairs[row, column] for column in labels] for row in labels]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_FIELD_LENGTH else f"{text[:MAX_FIELD_LENGTH]}…"
