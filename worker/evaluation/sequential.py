"""A sequential test of whether a cut model keeps a share of the dense model's metric, on as few rows as it takes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.contract.options import TaskKind
from worker.data.prompts import Example
from worker.evaluation import metrics
from worker.evaluation.bootstrap import METRICS, KeptShare, kept_share
from worker.evaluation.metrics import CONFIDENCE, AnswerScores, select_rows
from worker.slimming.scoring.objectives import Batch

LOOKS = (0.25, 0.5)  # shares of the rows after which the test may stop early
MIN_LOOK = 16  # rows
# The confidence of an early look. With it, all looks together err no more often than the last look alone (the rule of
# Haybittle and Peto).
CONFIDENCE_OF_A_LOOK = 0.999


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps the floor, and what was measured on how many rows."""

    kept: KeptShare
    examples: int
    holds: bool


@dataclass(frozen=True)
class SequentialTest:
    """The rows of the test in the order in which models answer them, and the dense model's scores of the same rows."""

    kind: TaskKind
    examples: list[Example]
    dense: AnswerScores
    batched: Callable[[Sequence[Example]], list[Batch]]

    def measure(self, model: PreTrainedModel, on_batch: Callable[[], None]) -> KeptShare:
        """The share of the dense metric that the model keeps on all rows."""
        return self._kept_share(self._scores(model, 0, len(self.examples), on_batch))

    def verdict(self, model: PreTrainedModel, floor: float, on_batch: Callable[[], None]) -> Verdict:
        """Whether the lower bound of the model's share of the dense metric is at least `floor`."""
        scores, seen = [], 0
        for end in self._looks():
            scores.append(self._scores(model, seen, end, on_batch))
            seen, scores_so_far = end, concatenated(scores)
            early = self._kept_share(scores_so_far, CONFIDENCE_OF_A_LOOK).share
            if seen == len(self.examples) or early.low >= floor or early.high < floor:
                break
        found = self._kept_share(scores_so_far)
        is_last = seen == len(self.examples)
        return Verdict(found, seen, holds=(found.share if is_last else early).low >= floor)

    def _looks(self) -> list[int]:
        """The numbers of rows after which the test looks at the result."""
        total = len(self.examples)
        return [end for share in LOOKS if MIN_LOOK <= (end := round(share * total)) < total] + [total]

    def _scores(self, model: PreTrainedModel, start: int, end: int, on_batch: Callable[[], None]) -> AnswerScores:
        return metrics.score(model, self.batched(self.examples[start:end]), lambda _: on_batch())

    def _kept_share(self, scores: AnswerScores, confidence: float = CONFIDENCE) -> KeptShare:
        count = len(scores.answer_E)
        dense = select_rows(self.dense, list(range(count)))
        return kept_share(METRICS[self.kind], scores, dense, self.examples[:count], confidence)


def concatenated(parts: Sequence[AnswerScores]) -> AnswerScores:
    """The scores of the rows of all parts, in their order."""
    return AnswerScores(
        torch.cat([scores.log_probability_EL for scores in parts]), torch.cat([scores.answer_E for scores in parts])
    )


def stratified_order(answers: Sequence[object], seed: int) -> list[int]:
    """The rows shuffled so that every stretch of them has each answer in about its proportion among all rows."""
    generator, rows_by_answer = random.Random(seed), dict[object, list[int]]()
    for row, answer in enumerate(answers):
        rows_by_answer.setdefault(answer, []).append(row)
    places: list[tuple[float, int]] = []
    for rows in rows_by_answer.values():
        generator.shuffle(rows)
        places += [((rank + generator.random()) / len(rows), row) for rank, row in enumerate(rows)]
    return [row for _, row in sorted(places)]
