"""The rows of a training: those that are trained on and those that are held out, their batches and their losses."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.request.recovery import HELD_OUT_SHARE
from worker.data import batching
from worker.data.batching import Padding
from worker.data.examples import Example
from worker.data.sampling import stratified_order
from worker.evaluation.answer_scores import AnswerScores
from worker.slimming.recovery.losses import TaskLoss, mixed
from worker.slimming.scoring.objectives import Batch

MAX_HELD_OUT = 256  # rows of a task; more of them would take longer and hardly change which step is the best


class Teacher(Protocol):
    """Gives the outputs of the dense model."""

    def outputs(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """Its outputs for a batch of these rows, in the order of the batch."""


@dataclass(frozen=True)
class StoredScores:
    """A teacher whose scores of all rows are known."""

    scores: AnswerScores

    def outputs(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """The scores of the rows."""
        return self.scores.of_rows(list(rows)).score_EL


@dataclass(frozen=True)
class RunningModel:
    """A teacher that is run on every batch, because its outputs for all rows would not fit in memory."""

    model: PreTrainedModel
    loss: TaskLoss

    def outputs(self, batch: Batch, rows: Sequence[int]) -> Tensor:
        """What the model gives for the batch."""
        with torch.no_grad():
            return self.loss.outputs(self.model, batch)


@dataclass(frozen=True)
class TrainingTask:
    """The rows of one task as tokens, and their loss."""

    examples: Sequence[Example]
    padding: Padding
    loss: TaskLoss
    label_weight: float
    teacher: Teacher | None

    def losses(self, model: nn.Module, rows: Sequence[int], device: torch.device, tokens: int) -> Iterator["BatchLoss"]:
        """The losses of some rows, in batches of at most `tokens` tokens."""
        for batch in batching.batches([self.examples[row] for row in rows], self.padding, tokens):
            in_order, moved = [rows[index] for index in batch.index_E.tolist()], batch.to(device)
            teacher = self.teacher.outputs(moved, in_order) if self.teacher and self.label_weight < 1 else None
            terms_N = mixed(self.loss, model, moved, teacher, self.label_weight)
            yield BatchLoss(terms_N.sum(), terms_N.numel(), sum(int(mask.sum()) for mask in batch.masks.values()))


@dataclass(frozen=True)
class BatchLoss:
    """The loss of a batch."""

    total: Tensor  # over its terms, with gradients
    terms: int
    tokens: int  # that were read, padding left out


@dataclass(frozen=True)
class SplitRows:
    """Rows of a task that are trained on, and rows that are held out."""

    train: list[int]
    held_out: list[int]


def split(examples: Sequence[Example], most: int | None, seed: int) -> SplitRows:
    """A fifth of `most` rows held out, or of all, and the others; stratified by the right answer."""
    order = stratified(examples, seed)
    held_out = min(MAX_HELD_OUT, -(-len(order[:most]) // HELD_OUT_SHARE))
    return SplitRows(train=sorted(order[held_out:]), held_out=sorted(order[:held_out]))


def stratified(examples: Sequence[Example], seed: int) -> list[int]:
    """The rows shuffled so that every stretch of them has each right answer in about its proportion."""
    return stratified_order([example.target or example.tags or example.answer for example in examples], seed)


@dataclass(frozen=True)
class StepRows:
    """The rows of one step: rows of one task."""

    task: int
    rows: list[int]


def steps_of_epoch(splits: Sequence[SplitRows], batch_size: int, draw: random.Random) -> list[StepRows]:
    """The steps of one pass over the training rows, in random order; those of a task are equally large."""
    found: list[StepRows] = []
    for task, rows in enumerate(splits):
        shuffled = draw.sample(rows.train, len(rows.train))
        count = -(-len(shuffled) // batch_size)
        found += [StepRows(task, shuffled[start::count]) for start in range(count)]
    draw.shuffle(found)
    return found
