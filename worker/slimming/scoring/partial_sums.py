"""The scores of all rows from sums that were measured on parts of the rows, for example by several workers.

What a formula of `criteria` adds up over rows is added up over the parts too: the sums of the activations or of the
attributions, the gradients of the weights, and the second moments. A part measures them (`measure`), the parts are
added (`added`, `second_moments.added`), and the whole is scored (`score`), equal to one pass over all rows up to
rounding.

Shape suffixes: N tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.free_memory import budget
from worker.slimming.scoring.attribution import (
    Accumulator,
    Passes,
    Scored,
    check_served,
    kept_for_repair,
    observe_all,
    prepared,
)
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments, collect, matrix_bytes, portions
from worker.slimming.units.groups import Group, Site
from worker.slimming.units.locating import locate


@dataclass(frozen=True)
class PartialSums:
    """What a part of the rows adds to the scores of every group that has no moments."""

    sums: dict[Site, Tensor]  # float64
    weight_gradients: dict[str, Tensor]  # float32, of the parameters of a criterion that needs them
    num_examples: int
    num_tokens: dict[str, int]  # of each stack


@dataclass(frozen=True)
class Scoring:
    """A model, and how its units are scored; `criterion` is a key of CRITERIA that compares no general rows."""

    model: nn.Module
    architecture: Architecture
    units: Sequence[str]
    criterion: str
    options: Options

    @property
    def groups(self) -> list[Group]:
        """All groups of the units. Raises UnitUnavailable."""
        check_served(CRITERIA[self.criterion], self.criterion, self.units)
        return locate(self.model, self.architecture, self.units)

    @property
    def consumers(self) -> list[Group]:
        """The groups that are scored by the second moments of a module's input."""
        return [each for each in self.groups if each.hook_point == "input"] if self._by_moments else []

    @property
    def others(self) -> list[Group]:
        """The groups that are scored by sums."""
        consumers = {group.site for group in self.consumers}
        return [group for group in self.groups if group.site not in consumers]

    @property
    def _by_moments(self) -> bool:
        return CRITERIA[self.criterion].needs == "moments"

    def accumulator(self, groups: Sequence[Group]) -> Accumulator:
        """An accumulator of the criterion for some of the groups."""
        formula = CRITERIA[self.criterion]
        return Accumulator(formula, formula.options(self.options), groups)


def measure(
    scoring: Scoring,
    batches: Iterable[Batch],
    on_moments: Callable[[Group, Moments], None],
    on_examples: Callable[[int], None] = lambda done: None,
) -> PartialSums:
    """The sums over the rows of one part. `on_moments` takes the moments of each module's input as they are ready.

    The moments of all modules are never in memory together where they do not fit: see `second_moments.portions`.
    `on_examples` is called with the number of examples that are done. The model is left unchanged.
    """
    batches, others = list(batches), scoring.others
    parts = portions(scoring.model, scoring.consumers, effects=True)
    examples = list(accumulate(batch.num_examples for batch in batches))
    passes = Passes(sum(batch.num_examples for batch in batches), len(parts) + bool(others), on_examples)
    for part in parts:
        on_pass = passes.next_pass()

        def on_batches(done: int, on_pass: Callable[[int], None] = on_pass) -> None:
            on_pass(examples[done - 1])

        objective = scoring.accumulator(part).options.objective
        with prepared(scoring.model):
            found = collect(scoring.model, part, batches, objective, on_batches, effects=True)
        for group in part:
            on_moments(group, found.pop(group.module))
    accumulator = scoring.accumulator(others)
    if others:
        observe_all(scoring.model, batches, accumulator, passes.next_pass())
    return PartialSums(
        accumulator.sums, accumulator.weight_gradients, accumulator.num_examples, dict(accumulator.num_tokens)
    )


def added(parts: Sequence[PartialSums]) -> PartialSums:
    """The sums over the rows of all parts."""
    first = parts[0]
    return PartialSums(
        {site: torch.stack([part.sums[site] for part in parts]).sum(0) for site in first.sums},
        {name: torch.stack([part.weight_gradients[name] for part in parts]).sum(0) for name in first.weight_gradients},
        sum(part.num_examples for part in parts),
        {stack: sum(part.num_tokens[stack] for part in parts) for stack in first.num_tokens},
    )


def score(scoring: Scoring, sums: PartialSums, moments: Callable[[Group], Moments]) -> Scored:
    """The scores of every unit from sums over all rows, as `attribution.score` gives them; nothing is run.

    `moments` gives those of one module's input at a time; they are kept for a repair where all of them fit into memory.
    Raises NotFinite.
    """
    device = next(scoring.model.parameters()).device
    accumulator = scoring.accumulator(scoring.groups)
    accumulator.sums = {site: total.to(device) for site, total in sums.sums.items()}
    accumulator.weight_gradients = {name: total.to(device) for name, total in sums.weight_gradients.items()}
    accumulator.num_examples = sums.num_examples
    accumulator.num_tokens |= sums.num_tokens
    consumers = {group.site for group in scoring.consumers}
    grams = sum(matrix_bytes(scoring.model, group) for group in scoring.consumers)
    on_device = grams <= budget(device)
    keeps = bool(consumers) and (on_device or grams <= budget(torch.device("cpu")))
    scores: dict[Site, Tensor] = {}
    kept: dict[str, Moments] = {}
    for group in accumulator.groups:
        statistics = accumulator.statistics(scoring.model, group)
        if group.site in consumers:
            found = moments(group).to(device)
            statistics = replace(statistics, moments=found)
            if keeps:
                kept[group.module] = kept_for_repair(found, on_host=not on_device)
        scores[group.site] = accumulator.scores(statistics)
    return Scored(scores, kept if keeps else None)


def by_rows(batches: Sequence[Batch], stack: str, weights_N: Sequence[Tensor]) -> Tensor:
    """The weights of the tokens, batch by batch, in an order that does not depend on the batches: row by row (N)."""
    rows = [
        row_N for batch, weight_N in zip(batches, weights_N, strict=True) for row_N in _rows(batch, stack, weight_N)
    ]
    return torch.cat([rows[index] for index in _order(batches)])


def by_batches(batches: Sequence[Batch], stack: str, weight_N: Tensor) -> list[Tensor]:
    """The reverse of `by_rows` for other batches of the same rows: one tensor (N) for each."""
    counts = [count for batch in batches for count in batch.masks[stack].sum(1).tolist()]
    order = _order(batches)
    rows = dict(zip(order, weight_N.split([counts[index] for index in order]), strict=True))
    ends = list(accumulate(len(batch.example_B) for batch in batches))
    starts = [0, *ends[:-1]]
    return [torch.cat([rows[index] for index in range(start, end)]) for start, end in zip(starts, ends, strict=True)]


def _rows(batch: Batch, stack: str, weight_N: Tensor) -> Sequence[Tensor]:
    counts: list[int] = batch.masks[stack].sum(1).tolist()
    return torch.split(weight_N, counts)


def _order(batches: Sequence[Batch]) -> list[int]:
    """The rows of all batches, by example and, within one, as they come."""
    examples = torch.cat([batch.index_E.cpu()[batch.example_B.cpu()] for batch in batches])
    return examples.argsort(stable=True).tolist()
