"""A sequential test of whether a cut model keeps a share of the dense model's metric, on as few rows as it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.contract.options import Collapse, TaskMetric
from worker.data.examples import Example
from worker.evaluation.answers import Answers, concatenated
from worker.evaluation.bootstrap import CONFIDENCE, KeptShare, kept_share
from worker.evaluation.collapse import collapse_of
from worker.evaluation.task_metrics import FORMULAS

LOOKS = (0.25, 0.5)  # shares of the rows after which the test may stop early
MIN_LOOK = 16  # rows
# The confidence of an early look. With it, all looks together err no more often than the last look alone (the rule of
# Haybittle and Peto).
CONFIDENCE_OF_A_LOOK = 0.999


@dataclass(frozen=True)
class Comparison:
    """What a cut model keeps of the dense model's metric, and whether its answers have collapsed."""

    kept: KeptShare
    collapse: Collapse | None


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps the floor without a collapse, and what was measured on how many rows."""

    found: Comparison
    examples: int
    holds: bool


# The answers of a model to the rows of the test from the first to before the second number.
AnswerRows = Callable[[int, int], Answers]


@dataclass(frozen=True)
class SequentialTest:
    """The rows of the test in the order in which models answer them, and the dense model's answers to them."""

    metric: TaskMetric
    examples: list[Example]
    dense: Answers
    rows: Sequence[int] = ()  # the indices of the rows among all evaluation rows

    def measure(self, answer: AnswerRows) -> Comparison:
        """What the model keeps on all rows."""
        return self._comparison(answer(0, len(self.examples)))

    def verdict(self, answer: AnswerRows, floor: float) -> Verdict:
        """Whether the lower bound of the model's share of the dense metric is at least `floor`, and its answers still
        depend on the rows."""
        parts, seen = [], 0
        for end in self._looks():
            parts.append(answer(seen, end))
            seen, so_far = end, concatenated(parts)
            early = self._kept_share(so_far, CONFIDENCE_OF_A_LOOK).share
            if seen == len(self.examples) or early.low >= floor or early.high < floor:
                break
        found, is_last = self._comparison(so_far), seen == len(self.examples)
        keeps = (found.kept.share if is_last else early).low >= floor
        return Verdict(found, seen, holds=keeps and found.collapse is None)

    def _looks(self) -> list[int]:
        """The numbers of rows after which the test looks at the result."""
        total = len(self.examples)
        if FORMULAS[self.metric].needs_all_rows:
            return [total]
        return [end for share in LOOKS if MIN_LOOK <= (end := round(share * total)) < total] + [total]

    def _comparison(self, answers: Answers) -> Comparison:
        dense = self.dense.of_rows(range(answers.scores.num_rows))
        return Comparison(self._kept_share(answers), collapse_of(answers, dense))

    def _kept_share(self, answers: Answers, confidence: float = CONFIDENCE) -> KeptShare:
        count = answers.scores.num_rows
        return kept_share(self.metric, answers, self.dense.of_rows(range(count)), self.examples[:count], confidence)
