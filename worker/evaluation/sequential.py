"""A sequential test of whether a cut model keeps a share of the dense model's metric, on as few rows as it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from service.contract.options import Collapse, TaskMetric
from worker.data.examples import Example
from worker.evaluation.answers import Answers, concatenated
from worker.evaluation.bootstrap import CONFIDENCE, KeptShare, kept_share
from worker.evaluation.collapse import collapse_of
from worker.evaluation.task_metrics import FORMULAS

# Shares of the rows after which the test may stop early: some to accept or to reject a model, the others to reject it.
LOOKS = (0.25, 0.5)
REJECTING_LOOKS = (0.125, 0.75)
MIN_LOOK = 16  # rows
# The confidence of an early look. With it, all looks together err no more often than the last look alone (the rule of
# Haybittle and Peto).
CONFIDENCE_OF_A_LOOK = 0.999
# A model is rejected early where it would hold the floor on all rows with less than this probability. This errs on one
# side alone: it never accepts a model.
FUTILE = 0.01
LEAST_ERROR = 1e-9  # of a share


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
        parts, seen, total = [], 0, len(self.examples)
        for end in self._looks():
            parts.append(answer(seen, end))
            seen, so_far = end, concatenated(parts)
            early = self._kept_share(so_far, CONFIDENCE_OF_A_LOOK).share
            is_accepted = early.low >= floor and seen in _places(LOOKS, total)
            if seen < total and (is_accepted or early.high < floor or self._chance(so_far, floor) < FUTILE):
                break
        found = self._comparison(so_far)
        keeps = found.kept.share.low >= floor if seen == total else is_accepted
        return Verdict(found, seen, holds=keeps and found.collapse is None)

    def _chance(self, answers: Answers, floor: float) -> float:
        """The probability that the lower bound on all rows will be at least `floor`, given the answers so far.

        The predictive power of Spiegelhalter, Freedman and Blackburn (Controlled Clinical Trials 7, 1986): with the
        share s and its standard error e on a part t of the rows, the share on all rows is normal with mean s and
        variance e^2 (1 - t), and has the standard error e sqrt(t).
        """
        share, part = self._kept_share(answers).share, answers.scores.num_rows / len(self.examples)
        quantile = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        error = max((share.high - share.low) / (2 * quantile), LEAST_ERROR)
        needed = floor + quantile * error * sqrt(part)
        return 1 - NormalDist(share.value, error * sqrt(1 - part)).cdf(needed)

    def _looks(self) -> list[int]:
        """The numbers of rows after which the test looks at the result."""
        total = len(self.examples)
        early = [] if FORMULAS[self.metric].needs_all_rows else _places((*LOOKS, *REJECTING_LOOKS), total)
        return [*early, total]

    def _comparison(self, answers: Answers) -> Comparison:
        dense = self.dense.of_rows(range(answers.scores.num_rows))
        return Comparison(self._kept_share(answers), collapse_of(answers, dense))

    def _kept_share(self, answers: Answers, confidence: float = CONFIDENCE) -> KeptShare:
        count = answers.scores.num_rows
        return kept_share(self.metric, answers, self.dense.of_rows(range(count)), self.examples[:count], confidence)


def _places(shares: Sequence[float], total: int) -> list[int]:
    """The numbers of rows that are these shares of all, as far as they are enough for a look."""
    return [end for share in sorted(shares) if MIN_LOOK <= (end := round(share * total)) < total]
