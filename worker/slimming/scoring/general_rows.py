"""General rows beside those of the task: what the model can do besides takes part in scores and repair.

Two rules, each with a weight w in [0, 1], the share of the general rows.

mixture: the second moments that the surgeon and the repair are made of, and the squared attributions, are those of
both kinds of rows, H = (1 - w) H_T + w H_G, with T the rows of the task and G general rows. Every token of a kind has
the same weight, and both kinds together the shares 1 - w and w, whatever the numbers of their tokens. The objectives
are on different scales (a margin, a log-probability). So the objective of the general rows is scaled until the squared
attributions of an example, summed over all units, are equal on average; they then have the shares 1 - w and w as well.
w = 0 is the task alone.

shared_exclusive (after Tian et al., arXiv 2510.22489, whose text gives no formula; the choices are ours): with the root
mean square n of a unit's activation over tokens, divided by the mean over its layer,

    d = (n_T - n_G) / (n_T + n_G)      exclusive to the task where d > 0.1, to general rows where d < -0.1, else shared
    S = max(s_T, s_G) where shared, (1 - w) s_T where exclusive to the task, w s_G where exclusive to general rows

with the scores s of the criterion on each kind of rows, divided by their mean over the layer.

Shape suffixes: U units of a group.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.groups import Scores

EXCLUSIVE = 0.1  # the least |d| of a unit that is exclusive to one kind of rows
SCALE_EXAMPLES = 64  # of each kind, that the scale of its objective is measured on


@dataclass(frozen=True)
class GeneralBatches:
    """General rows in batches, their objective, and their share."""

    batches: Sequence[Batch]
    objective: str
    weight: float


@dataclass(frozen=True)
class Proportions:
    """What both kinds of rows are divided by, so that neither counts more because it has more tokens or steeper
    objectives: a share w of general rows has the weight w * tokens, and its squared gradients w * effects."""

    tokens: float  # those of the task for each general token
    effects: float  # mean squared attribution of the task for that of general rows, times the examples likewise


def mixture(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    task: Sequence[Batch],
    general: GeneralBatches,
    objective: str,
) -> list[Batch]:
    """The batches of both kinds of rows with their weights and scales; `objective` is that of the task."""
    if general.weight == 0:
        return list(task)
    return weighted(task, general, proportions(model, architecture, units, task, general, objective))


def proportions(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    task: Sequence[Batch],
    general: GeneralBatches,
    objective: str,
) -> Proportions:
    """The proportions of the two kinds of rows, whatever their shares are; `objective` is that of the task."""
    own = effect(model, architecture, units, task, objective)
    other = effect(model, architecture, units, general.batches, general.objective)
    examples = _num_examples(task) / _num_examples(general.batches)
    return Proportions(
        tokens=_num_tokens(task) / _num_tokens(general.batches),
        effects=own * examples / other if other > 0 else 0.0,
    )


def weighted(task: Sequence[Batch], general: GeneralBatches, found: Proportions) -> list[Batch]:
    """The batches of both kinds of rows with their weights and scales, from their proportions."""
    w = general.weight
    if w == 0:
        return list(task)
    scale = sqrt(w * found.effects)
    return [
        *(replace(batch, weight=1 - w, gradient_scale=sqrt(1 - w)) for batch in task),
        *(
            replace(batch, weight=w * found.tokens, gradient_scale=scale, objective=general.objective)
            for batch in general.batches
        ),
    ]


def effect(
    model: nn.Module, architecture: Architecture, units: Sequence[str], batches: Sequence[Batch], objective: str
) -> float:
    """The squared attribution of an example, summed over tokens and units; the mean over evenly spaced batches."""
    sample = list(_evenly_spaced(batches, SCALE_EXAMPLES))
    scores = attribution.score(model, architecture, units, sample, "second_moment", Options(objective=objective)).scores
    return sum(float(score_U.double().sum()) for score_U in scores.values()) / _num_examples(sample)


def _evenly_spaced(batches: Sequence[Batch], examples: int) -> Iterator[Batch]:
    """Batches that are evenly spaced, as many as hold about the number of examples, and one at least."""
    step = max(1, _num_examples(batches) // examples)
    yield from batches[::step]


def _num_examples(batches: Sequence[Batch]) -> int:
    return sum(batch.num_examples for batch in batches)


def _num_tokens(batches: Sequence[Batch]) -> int:
    """The tokens that are read, those of all stacks together."""
    return sum(int(mask_BT.sum()) for batch in batches for mask_BT in batch.masks.values())


def shared_exclusive(task: Scores, general: Scores, task_norms: Scores, general_norms: Scores, weight: float) -> Scores:
    """The scores by the rule of this name, from the scores and the norms of the activations on each kind of rows."""
    return {
        site: _fused(
            _by_mean(task[site]),
            _by_mean(general[site]),
            difference(task_norms[site], general_norms[site]),
            weight,
        )
        for site in task
    }


def difference(task_U: Tensor, general_U: Tensor) -> Tensor:
    """d of each unit, from the norms of its activation (U)."""
    task_U, general_U = _by_mean(task_U), _by_mean(general_U)
    return (task_U - general_U) / (task_U + general_U).clamp_min(torch.finfo(torch.float32).tiny)


def _fused(task_U: Tensor, general_U: Tensor, difference_U: Tensor, weight: float) -> Tensor:
    exclusive_U = torch.where(difference_U > 0, (1 - weight) * task_U, weight * general_U)
    return torch.where(difference_U.abs() > EXCLUSIVE, exclusive_U, torch.maximum(task_U, general_U))


def _by_mean(value_U: Tensor) -> Tensor:
    mean = value_U.abs().mean()
    return value_U / mean if mean > 0 else value_U
