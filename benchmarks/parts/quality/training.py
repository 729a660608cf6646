"""Trains a model on tasks as the product asks them: the same prompts, tokens and scored positions.

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.parts.quality.kinds import as_read
from service.contract.options import TaskKind
from service.contract.request.task import TaskWording
from service.models.families.family import Kind
from service.rows.labels import with_named_labels
from service.rows.row import Row
from worker.data import batching, encoding, wordings
from worker.data.examples import Example
from worker.slimming.scoring.objectives import Batch, candidate_scores, token_scores

WARM_UP = 0.06  # of all steps


@dataclass(frozen=True)
class Recipe:
    """How a model is trained."""

    rate: float  # peak of the learning rate, after a warm-up and before a linear decay to zero
    epochs: int
    tokens_per_batch: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class Lesson:
    """Examples of one task, and how they are padded."""

    examples: list[Example]
    padding: batching.Padding
    kind: TaskKind


def lesson(
    name: str,
    task: TaskWording,
    rows: Sequence[Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
) -> Lesson:
    """The rows of a resolved task as a model of the kind reads them."""
    wording = wordings.wording(kind, task, tokenizer, model.config)
    named = with_named_labels(as_read(name, rows), wording.task)
    examples, _ = encoding.encode(named, wording, is_calibration=True)
    return Lesson(
        examples, batching.padding(model, tokenizer, kind, wording.ends), task.kind or TaskKind.classification
    )


def fit(model: nn.Module, lessons: Sequence[Lesson], recipe: Recipe) -> None:
    """Train the parameters that need gradients with AdamW, in bfloat16 autocast on a GPU or a CPU that computes it."""
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps = recipe.epochs * sum(len(_batches(each, recipe)) for each in lessons)
    optimizer = torch.optim.AdamW(chosen, lr=recipe.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    device = chosen[0].device
    model.train()
    for epoch in range(recipe.epochs):
        total, count = 0.0, 0
        for batch, kind in _shuffled(lessons, recipe, recipe.seed + epoch):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(device)):
                found = loss(model, batch.to(device), kind)
            optimizer.zero_grad()
            found.backward()
            nn.utils.clip_grad_norm_(chosen, 1.0)
            optimizer.step()
            schedule.step()
            total, count = total + found.item(), count + 1
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {total / count:.4f}", flush=True)
    model.eval()


def loss(model: nn.Module, batch: Batch, kind: TaskKind) -> Tensor:
    """The loss that the kind of task is trained with: cross-entropy of labels, tags and tokens of the right answers,
    of each decision on a label, or half the squared error of a number. Its mean over what is scored."""
    score_M = token_scores(model, batch)
    if kind is TaskKind.generation:
        return -score_M.mean()
    score_QL = candidate_scores(score_M, batch)
    if batch.target_EL is None:
        return nn.functional.cross_entropy(score_QL, batch.right_Q)
    target_EL = batch.target_EL.to(score_QL.dtype)
    if kind is TaskKind.regression:
        return nn.functional.mse_loss(score_QL, target_EL) / 2
    return nn.functional.binary_cross_entropy_with_logits(score_QL, target_EL)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_amx_tile_supported()


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


def _batches(each: Lesson, recipe: Recipe) -> list[Batch]:
    return batching.batches(each.examples, each.padding, recipe.tokens_per_batch)


def _shuffled(lessons: Sequence[Lesson], recipe: Recipe, seed: int) -> Iterator[tuple[Batch, TaskKind]]:
    """The batches of all tasks in one random order. A batch has examples of about one length, drawn anew each time."""
    draw = random.Random(seed)
    pairs = []
    for each in lessons:
        mixed = Lesson(draw.sample(each.examples, len(each.examples)), each.padding, each.kind)
        pairs += [(batch, each.kind) for batch in _batches(mixed, recipe)]
    draw.shuffle(pairs)
    yield from pairs
