"""Trains LoRA weights for a time, and keeps those with the lowest loss on held-out rows.

AdamW without weight decay; the learning rate rises for a tenth of the steps and then falls to zero.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.answers.result import LossPoint, StoppedBy
from service.contract.errors import InvalidModel
from worker.recovery.lora import Lora
from worker.recovery.rows import BatchLoss, SplitRows, StepRows, TrainingTask, steps_of_epoch

MAX_GRADIENT_NORM = 1.0
WARM_UP_SHARE = 0.1  # of the steps
BEHIND = 0.05  # share of the time by which a training has to be behind its steps to count as limited by the time
PATIENCE = 4  # evaluations without a lower loss, after which a training ends
EVALUATIONS_PER_EPOCH = 2
MAX_STEPS_BETWEEN = 32  # evaluations


@dataclass(frozen=True)
class Settings:
    """How long and how fast a training learns."""

    learning_rate: float
    epochs: int
    steps: int | None
    batch_size: int
    seconds: float
    seed: int
    tokens_per_batch: int


@dataclass(frozen=True)
class Training:
    """What a training did. The LoRA weights are those of the best step."""

    losses: list[LossPoint]
    steps: int
    best_step: int
    stopped_by: StoppedBy
    seconds: float
    tokens: int
    train_rows: int
    held_out_rows: int


@dataclass(frozen=True)
class Before:
    """A training of the same LoRA weights on other rows that went before."""

    steps: int
    untrained: dict[str, Tensor]  # the weights as they were before it


# Called with (steps that are done, all steps) after each batch; it may raise to end the training.
OnStep = Callable[[int, int], None]


def train(
    model: PreTrainedModel,
    lora: Lora,
    tasks: Sequence[TrainingTask],
    splits: Sequence[SplitRows],
    settings: Settings,
    on_step: OnStep,
    clock: Callable[[], float] = time.monotonic,
    before: Before | None = None,
) -> Training:
    """Train the LoRA weights of a model, and set them to those with the lowest loss on the held-out rows.

    The weights before the first step are among these; after another training, whose steps count, those before it too.
    A training that its time does not limit depends on the seed alone. Raises InvalidModel where the loss is no finite
    number before the first step, and what `on_step` raises.
    """
    return _Trainer(model, lora, tasks, splits, settings, on_step, clock, before).run()


@dataclass
class _Trainer:
    model: PreTrainedModel
    lora: Lora
    tasks: Sequence[TrainingTask]
    splits: Sequence[SplitRows]
    settings: Settings
    on_step: OnStep
    clock: Callable[[], float]
    before: Before | None = None
    losses: list[LossPoint] = field(default_factory=list)
    done: int = 0
    earlier: int = 0  # steps of the training before
    tokens: int = 0
    _since_point: list[tuple[float, int]] = field(default_factory=list)  # (sum of the terms, terms) of each step
    _best: tuple[float, int, dict[str, Tensor]] | None = None  # (loss, step, weights)

    def run(self) -> Training:
        self._started = self.clock()
        per_epoch = len(steps_of_epoch(self.splits, self.settings.batch_size, random.Random(0)))
        self._total = min(self.settings.epochs * per_epoch, self.settings.steps or self.settings.epochs * per_epoch)
        between = max(1, min(MAX_STEPS_BETWEEN, per_epoch // EVALUATIONS_PER_EPOCH))
        self._optimizer = torch.optim.AdamW(self.lora.weights.values(), lr=0.0, weight_decay=0.0)
        if not self._evaluate_first():
            raise InvalidModel("the loss of the cut model is not a finite number: remove less", param="model.uri")
        stopped_by = self._take_steps(between)
        if stopped_by is not StoppedBy.diverged and self.losses[-1].step != self.earlier + self.done:
            self._evaluate()
        assert self._best is not None
        _, best_step, weights = self._best
        self.lora.restore(weights)
        return Training(
            losses=self.losses,
            steps=self.earlier + self.done,
            best_step=best_step,
            stopped_by=stopped_by,
            seconds=self._elapsed,
            tokens=self.tokens,
            train_rows=sum(len(rows.train) for rows in self.splits),
            held_out_rows=sum(len(rows.held_out) for rows in self.splits),
        )

    def _take_steps(self, between: int) -> StoppedBy:
        """Take all steps that there are to take, with an evaluation after every `between` of them."""
        for rows in self._steps():
            if self._elapsed >= self.settings.seconds:
                return StoppedBy.seconds
            if not self._step(rows):
                return StoppedBy.diverged
            if self.done % between == 0:
                if not self._evaluate():
                    return StoppedBy.diverged
                if self._has_stalled():
                    return StoppedBy.held_out
        return StoppedBy.steps

    @property
    def _elapsed(self) -> float:
        return self.clock() - self._started

    def _steps(self) -> Iterator[StepRows]:
        draw = random.Random(self.settings.seed)
        while self.done < self._total:
            for rows in steps_of_epoch(self.splits, self.settings.batch_size, draw):
                if self.done < self._total:
                    yield rows

    def _step(self, step: StepRows) -> bool:
        """One step on the mean loss of its rows, which are passed through the model batch by batch.

        Returns false, and takes no step, where the loss is not a finite number.
        """
        self._optimizer.zero_grad()
        total, terms = 0.0, 0
        for batch in self._batches(step.task, step.rows):
            batch.total.backward()
            total += batch.total.item()
            terms += batch.terms
            self.tokens += batch.tokens
            self._report()
        if not math.isfinite(total):
            return False
        self._descend(terms)
        self._since_point.append((total, terms))
        self.done += 1
        self._report()
        return True

    def _descend(self, terms: int) -> None:
        """Change the weights by their gradients, which are sums over `terms` terms."""
        share = rate_share(self.done, self._total, self._elapsed / self.settings.seconds)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share
        weights = list(self.lora.weights.values())
        for each in weights:
            if each.grad is not None:
                each.grad /= max(terms, 1)
        torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
        self._optimizer.step()

    def _evaluate_first(self) -> bool:
        """Evaluate the weights before the first step, and before those those before the other training."""
        if self.before is None:
            return self._evaluate()
        trained = self.lora.state()
        self.lora.restore(self.before.untrained)
        is_finite = self._evaluate()
        self.lora.restore(trained)
        self.earlier = self.before.steps
        if self.earlier and is_finite:
            self._evaluate()
        return is_finite

    def _evaluate(self) -> bool:
        """Add a point to the loss curve, and remember the weights where it is the lowest.

        Returns false, and adds none, where the loss is not a finite number.
        """
        total, terms = 0.0, 0
        with torch.no_grad():
            for task, rows in enumerate(self.splits):
                for batch in self._batches(task, rows.held_out):
                    total += batch.total.item()
                    terms += batch.terms
                    self._report()
        if not math.isfinite(total):
            return False
        held_out = total / max(terms, 1)
        trained, counted = (sum(part) for part in zip(*self._since_point, strict=True)) if self._since_point else (0, 0)
        step = self.earlier + self.done
        self.losses.append(LossPoint(step=step, train=trained / counted if counted else None, held_out=held_out))
        self._since_point.clear()
        if self._best is None or held_out < self._best[0]:
            self._best = held_out, step, self.lora.state()
        return True

    def _batches(self, task: int, rows: Sequence[int]) -> Iterator[BatchLoss]:
        return self.tasks[task].losses(self.model, rows, self.model.device, self.settings.tokens_per_batch)

    def _has_stalled(self) -> bool:
        """Whether the loss has not fallen for PATIENCE evaluations."""
        assert self._best is not None
        return sum(point.step > self._best[1] for point in self.losses) >= PATIENCE

    def _report(self) -> None:
        self.on_step(self.done, self._total)


def rate_share(done: int, total: int, time_share: float) -> float:
    """The share of the learning rate after `done` of `total` steps.

    Where the time will end before the steps, the rate falls with the time, so that it still ends at zero.
    """
    warm_up = max(1.0, WARM_UP_SHARE * total)
    share = done / total
    share = time_share if time_share > share + BEHIND else share
    return min((done + 1) / warm_up, 1.0) * max(0.0, 1.0 - share)
