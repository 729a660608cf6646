"""Scores with several shares of general rows, from one pass over the rows of the task and one over general rows.

The statistics of a mixture are linear in those of its two parts: with the share w of general rows (`general_rows`), the
proportions t of tokens and e of effects, and the sums of both kinds of rows,

    moments of activations       (1 - w) * task + w * t * general
    products of gradients        (1 - w) * task + w * e * general

Shape suffixes as in `second_moments`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import CRITERIA, Options, Statistics
from worker.slimming.scoring.finite import check_finite
from worker.slimming.scoring.general_rows import Proportions
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments, added, portions
from worker.slimming.units.groups import Group, Scores, Site
from worker.slimming.units.locating import locate

Measured = Mapping[Site, Statistics]


def fit_in_memory(model: nn.Module, architecture: Architecture, units: Sequence[str]) -> bool:
    """Whether the matrices of both kinds of rows can be held at once."""
    groups = [group for group in locate(model, architecture, units) if group.hook_point == "input"]
    return len(portions(model, [*groups, *groups], effects=True)) <= 1


def measure(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Sequence[Batch],
    criterion: str,
    options: Options,
    on_examples: Callable[[int], None],
) -> Measured:
    """The statistics of every group on one kind of rows, from which a criterion computes its scores."""
    found: dict[Site, Statistics] = {}

    def keep(statistics: Statistics, _: Options) -> Tensor:
        found[statistics.site] = statistics
        return torch.zeros(statistics.count)

    formula = replace(CRITERIA[criterion], finalize=keep)
    attribution.score(model, architecture, units, batches, formula, options, on_examples)
    return found


def scores(
    task: Measured, general: Measured, found: Proportions, weight: float, criterion: str, options: Options
) -> Scores:
    """The scores of a mixture with a share `weight` of general rows. Raises NotFinite."""
    mixture = {site: mixed(statistics, general[site], found, weight) for site, statistics in task.items()}
    return scores_of(mixture, criterion, options)


def scores_of(measured: Measured, criterion: str, options: Options) -> Scores:
    """The scores from statistics. Raises NotFinite."""
    formula, found = CRITERIA[criterion], dict[Site, Tensor]()
    for site, statistics in measured.items():
        found[site] = formula.finalize(statistics, formula.options(options)).float().cpu()
        check_finite(site, found[site])
    return found


def moments_of(groups: Sequence[Group], measured: Measured) -> dict[str, Moments]:
    """Path of a consumer -> moments of its input, where the criterion measures them; for a repair, without effects."""
    known = ((group.module, measured[group.site].moments) for group in groups)
    return {path: replace(moments, effect_OO=None) for path, moments in known if moments is not None}


def mixed(task: Statistics, general: Statistics, found: Proportions, weight: float) -> Statistics:
    """The statistics of a mixture; those of the task alone where the weight is 0."""
    if weight == 0:
        return task
    moments = None
    if task.moments is not None and general.moments is not None:
        moments = mixed_moments(task.moments, general.moments, found, weight)
    return replace(
        task,
        sums=(1 - weight) * task.sums + weight * found.effects * general.sums,
        num_examples=task.num_examples + general.num_examples,
        num_tokens=task.num_tokens + general.num_tokens,
        moments=moments,
    )


def mixed_moments(task: Moments, general: Moments, found: Proportions, weight: float) -> Moments:
    """The moments of a mixture, whose origin is that of the task."""
    own, other = 1 - weight, weight * found.tokens
    return added([task.times(own, own), general.times(other, weight * found.effects)])


@dataclass(frozen=True)
class MixedMoments(Mapping[str, Moments]):
    """Path of a consumer -> moments of its input in a mixture, which are computed when they are read."""

    task: Mapping[str, Moments]
    general: Mapping[str, Moments]
    found: Proportions
    weight: float

    def __getitem__(self, path: str) -> Moments:
        if self.weight == 0:
            return self.task[path]
        return mixed_moments(self.task[path], self.general[path], self.found, self.weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self.task)

    def __len__(self) -> int:
        return len(self.task)
