"""Scores of every unit of every layer, accumulated over data: the expensive part of slimming.

One forward and one backward pass of a batch serve all layers. The backward pass computes gradients of activations
alone (weights only for a criterion that asks for theirs) and ends at the first group: its activation is the leaf.

Shape suffixes as in criteria.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.hooks import watch
from worker.slimming.scoring.criteria import CRITERIA, Formula, Observation, Options, Statistics
from worker.slimming.scoring.objectives import OBJECTIVES, Batch, token_log_probabilities
from worker.slimming.scoring.second_moments import Moments, collect, portions
from worker.slimming.units import Group, Site, UnitUnavailable, locate, weights_UF


def score(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Iterable[Batch],
    criterion: str,
    options: Options,
    on_examples: Callable[[int], None] = lambda done: None,
    on_moments: Callable[[dict[str, Moments]], None] = lambda moments: None,
) -> dict[Site, Tensor]:
    """Importance of each unit, float32 on the CPU (units), by the named criterion of CRITERIA.

    `on_examples` hears how many examples are done after each batch, and may raise to end it; by a criterion that needs
    moments half of them count as done when the last batch is, and the others group by group. `on_moments` is given
    these, as `repair.measure_moments` takes them, where all were held at once. The model is left as it was. The results
    depend on the examples alone, not on how they are batched, up to the rounding of the model's own dtype. Raises
    UnitUnavailable for a unit that the family or the criterion cannot serve.
    """
    row = CRITERIA[criterion]
    refused = sorted(set(units) & set(row.unserved))
    if refused:
        raise UnitUnavailable(f"the criterion {criterion} is not defined for {refused[0]}")
    groups, told = locate(model, architecture, units), row.options(options)
    if row.needs != "moments":
        return _score_by_sums(model, batches, Accumulator(row, told, groups), on_examples)
    batches = list(batches)
    read = [group for group in groups if group.port == "input"]
    others = [group for group in groups if group.port != "input"]
    passes = Passes(sum(batch.num_examples for batch in batches), 2 * len(portions(read)) + bool(others), on_examples)
    scores = _score_by_moments(model, batches, Accumulator(row, told, read), passes, on_moments)
    if others:
        scores |= _score_by_sums(model, batches, Accumulator(row, told, others), passes.following())
    return {group.site: scores[group.site] for group in groups}


class Passes:
    """Tells of several passes over the same examples as if they were one; the work after a pass may count as one."""

    def __init__(self, num_examples: int, count: int, on_examples: Callable[[int], None]) -> None:
        self._num_examples, self._count, self._on_examples = num_examples, count, on_examples
        self._begun = 0

    def following(self) -> Callable[[int], None]:
        """Hears how many examples the pass that begins now has done."""
        before, self._begun = self._begun * self._num_examples, self._begun + 1
        return lambda done: self._on_examples((before + done) // self._count)


class Accumulator:
    """What has been added up so far."""

    def __init__(self, criterion: Formula, options: Options, groups: Sequence[Group]) -> None:
        self.criterion = criterion
        self.options = options
        self.groups = groups
        self.sums: dict[Site, Tensor] = {}
        self.weight_gradients: dict[str, Tensor] = {}
        self.num_examples = 0
        self.num_tokens = dict.fromkeys((group.site.stack for group in groups), 0)

    def add(self, group: Group, batch: Batch, activation_BTC: Tensor, gradient_BTC: Tensor | None) -> None:
        """Add what `group` shows of `batch`."""
        assert self.criterion.observe is not None
        seen = Observation(
            activation_BTC=activation_BTC,
            gradient_BTC=gradient_BTC,
            mask_BT=batch.masks[group.site.stack],
            example_B=batch.example_B,
            num_examples=batch.num_examples,
            size=group.size,
        )
        sums = self.criterion.observe(seen, self.options)
        known = self.sums.get(group.site)
        self.sums[group.site] = sums if known is None else known.add_(sums)

    def add_weight_gradients(self, parameters: dict[str, nn.Parameter]) -> None:
        """Move the gradients that a backward pass has left into float32 sums."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                known = self.weight_gradients.setdefault(name, torch.zeros_like(parameter, dtype=torch.float32))
                known.add_(parameter.grad)
                parameter.grad = None

    def close(self, batch: Batch) -> None:
        """Count the batch's examples and tokens."""
        self.num_examples += batch.num_examples
        for stack in self.num_tokens:
            self.num_tokens[stack] += int(batch.masks[stack].sum())

    def evidence(self, model: nn.Module, group: Group) -> Statistics:
        """All that is known of `group`."""
        gradients = self.weight_gradients
        return Statistics(
            site=group.site,
            count=group.count,
            size=group.size,
            sums=self.sums.get(group.site, torch.empty(0, dtype=torch.float64)),
            num_examples=self.num_examples,
            num_tokens=self.num_tokens[group.site.stack],
            weights_UF=weights_UF(group, lambda name: model.get_parameter(name).detach()),
            gradients_UF=weights_UF(group, lambda name: gradients[name]) if gradients else (),
        )


def _score_by_sums(
    model: nn.Module, batches: Iterable[Batch], tally: Accumulator, on_examples: Callable[[int], None]
) -> dict[Site, Tensor]:
    if tally.criterion.needs != "weights":
        with prepared(model):
            for batch in batches:
                _observe(model, batch, tally)
                on_examples(tally.num_examples)
    finalize = tally.criterion.finalize
    return {group.site: finalize(tally.evidence(model, group), tally.options).float().cpu() for group in tally.groups}


def _score_by_moments(
    model: nn.Module,
    batches: Sequence[Batch],
    tally: Accumulator,
    passes: Passes,
    on_moments: Callable[[dict[str, Moments]], None],
) -> dict[Site, Tensor]:
    """As many groups at a time as there is room for the matrices of."""
    scores: dict[Site, Tensor] = {}
    examples = list(accumulate(batch.num_examples for batch in batches))
    parts = portions(tally.groups)
    for part in parts:
        follow = passes.following()

        def on_batches(done: int, follow: Callable[[int], None] = follow) -> None:
            follow(examples[done - 1])

        with prepared(model):
            found = collect(model, part, batches, tally.options.objective, on_batches, effects=True)
        concluded = passes.following()
        for number, group in enumerate(part, 1):
            evidence = replace(tally.evidence(model, group), moments=found[group.watched])
            scores[group.site] = tally.criterion.finalize(evidence, tally.options).float().cpu()
            concluded(examples[-1] * number // len(part))
        if len(parts) == 1:
            on_moments({path: replace(moments, effect_OO=None) for path, moments in found.items()})
    return scores


def _observe(model: nn.Module, batch: Batch, tally: Accumulator) -> None:
    """Run one batch; what every group shows goes to the tally."""
    match tally.criterion.needs:
        case "gradients" | "moments":
            _observe_activations(model, batch, tally, with_gradients=True)
        case "activations":
            _observe_activations(model, batch, tally, with_gradients=False)
        case "weight gradients":
            _observe_weight_gradients(model, batch, tally)
    tally.close(batch)


def _observe_activations(model: nn.Module, batch: Batch, tally: Accumulator, *, with_gradients: bool) -> None:
    with ExitStack() as hooks, torch.set_grad_enabled(with_gradients):
        for group in tally.groups:
            hooks.enter_context(watch(model, group, _seer(group, batch, tally, with_gradients=with_gradients)))
        log_probability_M = token_log_probabilities(model, batch)
        if with_gradients:
            torch.autograd.backward(OBJECTIVES[tally.options.objective](log_probability_M, batch).sum())


def _seer(
    group: Group, batch: Batch, tally: Accumulator, *, with_gradients: bool
) -> Callable[[Tensor, Tensor | None], Tensor | None]:
    """What to do with an activation at the group's port: note it now, or when its gradient comes."""
    shape = (*batch.masks[group.site.stack].shape, -1)  # some families flatten rows and positions into one axis

    def see(activation: Tensor, before: Tensor | None) -> Tensor | None:
        effect = activation.detach() if before is None else (activation - before).detach()
        if not with_gradients:
            tally.add(group, batch, effect.view(shape), None)
            return None
        # Nothing before the first group asks for a gradient, so that the pass back ends at its activation.
        followed = activation if activation.requires_grad else activation.detach().requires_grad_()
        followed.register_hook(lambda gradient: tally.add(group, batch, effect.view(shape), gradient.reshape(shape)))
        return followed

    return see


def _observe_weight_gradients(model: nn.Module, batch: Batch, tally: Accumulator) -> None:
    names = {slab.parameter for group in tally.groups for slab in group.slabs}
    parameters = {name: model.get_parameter(name) for name in names}
    for parameter in parameters.values():
        parameter.requires_grad_()
    log_probability_M = token_log_probabilities(model, batch)
    torch.autograd.backward(OBJECTIVES[tally.options.objective](log_probability_M, batch).sum())
    tally.add_weight_gradients(parameters)


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients of weights within the context."""
    was_training = {module: module.training for module in model.modules()}
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
        for parameter, requires_grad in asked.items():
            parameter.requires_grad_(requires_grad)
