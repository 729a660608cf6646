"""Judging many cut models by rows that the dense model has answered, with no more rows each than it takes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from service.contract.options import TaskKind
from worker.data.prompts import Example
from worker.evaluation import metrics
from worker.evaluation.bootstrap import METRICS, Kept, kept
from worker.evaluation.metrics import Scores
from worker.slimming.scoring.objectives import Batch

LOOKS = (0.25, 0.5)  # shares of the rows after which a model may be judged already
MIN_LOOK = 16  # rows
# So sure has a look before the last to be: then the looks together err no more often than the last one alone
# (the rule of Haybittle and Peto).
CONFIDENCE_OF_A_LOOK = 0.999


@dataclass(frozen=True)
class Verdict:
    """What was found of one model, and on how many rows."""

    kept: Kept
    examples: int
    holds: bool


@dataclass(frozen=True)
class SequentialTest:
    """Rows in the order in which models see them, and the dense model's scores of the same."""

    kind: TaskKind
    examples: list[Example]
    dense: Scores
    batched: Callable[[Sequence[Example]], list[Batch]]

    def measure(self, model: PreTrainedModel, tick: Callable[[], None]) -> Kept:
        """The model on all rows."""
        return self._kept(self._scores(model, 0, len(self.examples), tick))

    def verdict(self, model: PreTrainedModel, floor: float, tick: Callable[[], None]) -> Verdict:
        """Whether the lower bound of the model's share of the dense metric is at least `floor`."""
        scores, seen = [], 0
        for end in self._looks():
            scores.append(self._scores(model, seen, end, tick))
            seen, so_far = end, joined(scores)
            sure = self._kept(so_far, CONFIDENCE_OF_A_LOOK).share
            if seen == len(self.examples) or sure.low >= floor or sure.high < floor:
                break
        found = self._kept(so_far)
        last = seen == len(self.examples)
        return Verdict(found, seen, holds=(found.share if last else sure).low >= floor)

    def _looks(self) -> list[int]:
        total = len(self.examples)
        return [end for share in LOOKS if MIN_LOOK <= (end := round(share * total)) < total] + [total]

    def _scores(self, model: PreTrainedModel, start: int, end: int, tick: Callable[[], None]) -> Scores:
        return metrics.score(model, self.batched(self.examples[start:end]), lambda _: tick())

    def _kept(self, scores: Scores, confidence: float = 0.95) -> Kept:
        count = len(scores.answer_E)
        dense = part(self.dense, list(range(count)))
        return kept(METRICS[self.kind], scores, dense, self.examples[:count], confidence)


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of all rows, one part after the other."""
    return Scores(
        torch.cat([scores.log_probability_EL for scores in parts]), torch.cat([scores.answer_E for scores in parts])
    )


def part(scores: Scores, rows: Sequence[int]) -> Scores:
    """The scores of some of the rows."""
    return Scores(scores.log_probability_EL[list(rows)], scores.answer_E[list(rows)])


def in_proportion(answers: Sequence[object], seed: int) -> list[int]:
    """All rows, shuffled so that every stretch of them has the answers in about the proportion of the whole."""
    generator, members = random.Random(seed), dict[object, list[int]]()
    for row, answer in enumerate(answers):
        members.setdefault(answer, []).append(row)
    places: list[tuple[float, int]] = []
    for rows in members.values():
        generator.shuffle(rows)
        places += [((rank + generator.random()) / len(rows), row) for rank, row in enumerate(rows)]
    return [row for _, row in sorted(places)]
