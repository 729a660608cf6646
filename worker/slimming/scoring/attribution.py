"""Scores of every unit by a criterion, accumulated over batches.

One forward and one backward pass of a batch serve all layers. The backward pass computes gradients of activations, and
of weights only for a criterion that needs them; it ends at the activation of the first group, which is the leaf.

Shape suffixes as in criteria.py and objectives.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.experts.neurons import RoutedTokens, watch_neurons
from worker.slimming.experts.routing import Routed, watch_experts, watch_experts_and_stream
from worker.slimming.free_memory import budget
from worker.slimming.hooks import watch
from worker.slimming.scoring.criteria import CRITERIA, ExpertObservation, Formula, Observation, Options, Statistics
from worker.slimming.scoring.finite import check_finite
from worker.slimming.scoring.neurons_of_experts import neuron_sums
from worker.slimming.scoring.objectives import Batch, objective_values, token_scores
from worker.slimming.scoring.second_moments import Moments, collect, matrix_bytes, portions
from worker.slimming.units.groups import Group, Scores, Site, UnitUnavailable
from worker.slimming.units.locating import locate
from worker.slimming.units.slices import weights_UF


class Scored(NamedTuple):
    """The scores of all units, and what else the scoring has measured."""

    scores: Scores  # float32 on the CPU (U)
    # Path of a consumer -> moments of its input, which a repair can use again. None where the criterion needs no
    # moments, or where they were not all in memory at once.
    moments: Mapping[str, Moments] | None = None


# Scores the units of a model on all rows; called with a callback that is told the number of examples that are done.
Measure = Callable[[Callable[[int], None]], Scored]


def score(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Iterable[Batch],
    criterion: str | Formula,
    options: Options,
    on_examples: Callable[[int], None] = lambda done: None,
    *,
    general: Iterable[Batch] = (),
) -> Scored:
    """The score of every unit by a criterion, a key of CRITERIA or a formula.

    `on_examples` is called with the number of examples that are done; an exception that it raises ends the scoring.
    A criterion that needs moments counts half of the examples while it reads batches, the other half while it computes
    scores group by group. A criterion that compares reads the `general` batches first, without progress. The model is
    left unchanged. Scores depend on the examples alone, not on how they are
    batched, up to rounding in the dtype of the model. Raises UnitUnavailable for a unit that the family or the
    criterion does not have.
    """
    formula = CRITERIA[criterion] if isinstance(criterion, str) else criterion
    check_served(formula, criterion, units)
    groups, effective = locate(model, architecture, units), formula.options(options)
    if formula.needs != "moments":
        accumulator = Accumulator(formula, effective, groups)
        if formula.needs_general:
            accumulator.general = Accumulator(formula, effective, groups)
            observe_all(model, general, accumulator.general, lambda done: None)
        return Scored(_score_by_sums(model, batches, accumulator, on_examples))
    batches = list(batches)
    of_consumers = [group for group in groups if group.hook_point == "input"]
    others = [group for group in groups if group.hook_point != "input"]
    parts = portions(model, of_consumers, effects=True)
    num_passes = 2 * len(parts) + bool(others)
    passes = Passes(sum(batch.num_examples for batch in batches), num_passes, on_examples)
    scores, moments = _score_by_moments(model, batches, Accumulator(formula, effective, of_consumers), parts, passes)
    if others:
        by_sums = _score_by_sums(model, batches, Accumulator(formula, effective, others), passes.next_pass())
        scores = {**scores, **by_sums}
    return Scored({group.site: scores[group.site] for group in groups}, moments)


def check_served(formula: Formula, name: str | Formula, units: Sequence[str]) -> None:
    """Raise UnitUnavailable for a unit that the formula of this name does not have."""
    unserved = sorted(set(units) & set(formula.unserved))
    if unserved:
        raise UnitUnavailable(f"the criterion {name} is not defined for {unserved[0]}")


class Passes:
    """Progress of several passes over the same examples, reported as that of one pass.

    Work that follows a pass may count as a pass too.
    """

    def __init__(self, num_examples: int, count: int, on_examples: Callable[[int], None]) -> None:
        self._num_examples, self._count, self._on_examples = num_examples, count, on_examples
        self._started = 0

    def next_pass(self) -> Callable[[int], None]:
        """Begin the next pass: a function to call with the number of examples that it has done."""
        before, self._started = self._started * self._num_examples, self._started + 1
        return lambda done: self._on_examples((before + done) // self._count)


class Accumulator:
    """The sums of a formula over the batches so far, for each group."""

    def __init__(self, formula: Formula, options: Options, groups: Sequence[Group]) -> None:
        self.formula = formula
        self.options = options
        self.groups = groups
        self.sums: dict[Site, Tensor] = {}
        self.weight_gradients: dict[str, Tensor] = {}
        self.num_examples = 0
        self.num_tokens = dict.fromkeys((group.site.stack for group in groups), 0)
        self.general: Accumulator | None = None  # of general rows, for a formula that compares

    def add(
        self,
        group: Group,
        batch: Batch,
        activation_BTC: Tensor,
        gradient_BTC: Tensor | None,
        before_BTC: Tensor | None = None,
    ) -> None:
        """Add the activation of `group`, and its gradient or the input of the layer if the formula needs that."""
        assert self.formula.observe is not None
        seen = Observation(
            activation_BTC=activation_BTC,
            gradient_BTC=gradient_BTC,
            mask_BT=batch.masks[group.site.stack],
            example_B=batch.example_B,
            num_examples=batch.num_examples,
            size=group.size,
            before_BTC=before_BTC,
        )
        self._add(group, self.formula.observe(seen, self.options))

    def add_experts(self, group: Group, batch: Batch, routed: Routed, effect_NK: Tensor | None) -> None:
        """Add what the experts of `group` did with `batch`, and the effects of it if the formula needs gradients."""
        assert self.formula.observe_experts is not None
        mask_BT = batch.masks[group.site.stack]
        shape = (*mask_BT.shape, -1)
        seen = ExpertObservation(
            expert_BTK=routed.expert_NK.view(shape),
            gate_BTK=routed.gate_NK.view(shape),
            norm_BTK=routed.norm_NK.reshape(shape),
            effect_BTK=None if effect_NK is None else effect_NK.view(shape),
            change_BT=None if routed.change_N is None else routed.change_N.view(mask_BT.shape),
            mask_BT=mask_BT,
            example_B=batch.example_B,
            num_examples=batch.num_examples,
            count=group.count,
        )
        self._add(group, self.formula.observe_experts(seen, self.options))

    def add_neurons(self, group: Group, batch: Batch, sent: RoutedTokens, gradient_ND: Tensor | None) -> None:
        """Add what the neurons of the experts of `group` did with `batch`."""
        self._add(group, neuron_sums(self.formula, self.options, group, batch, sent, gradient_ND))

    def _add(self, group: Group, sums: Tensor) -> None:
        known = self.sums.get(group.site)
        self.sums[group.site] = sums if known is None else known.add_(sums)

    def add_weight_gradients(self, parameters: dict[str, nn.Parameter]) -> None:
        """Add the gradients of a backward pass to float32 sums, and clear them."""
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

    def statistics(self, model: nn.Module, group: Group) -> Statistics:
        """What the scores of `group` are computed from."""
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
            general=self.general.statistics(model, group) if self.general else None,
        )

    def scores(self, statistics: Statistics) -> Tensor:
        """The scores of a group, float32 on the CPU (U). Raises NotFinite."""
        moments = statistics.moments
        if moments is not None:
            check_finite(statistics.site, moments.gram_CC, moments.effect_OO)
        score_U = self.formula.finalize(statistics, self.options).float().cpu()
        check_finite(statistics.site, score_U)
        return score_U


def _score_by_sums(
    model: nn.Module, batches: Iterable[Batch], accumulator: Accumulator, on_examples: Callable[[int], None]
) -> Scores:
    observe_all(model, batches, accumulator, on_examples)
    return {group.site: accumulator.scores(accumulator.statistics(model, group)) for group in accumulator.groups}


def observe_all(
    model: nn.Module, batches: Iterable[Batch], accumulator: Accumulator, on_examples: Callable[[int], None]
) -> None:
    """Run all batches, and add what the formula needs of every group to the accumulator."""
    if accumulator.formula.needs == "weights":
        return
    with prepared(model):
        for batch in batches:
            _observe(model, batch, accumulator)
            on_examples(accumulator.num_examples)


def _score_by_moments(
    model: nn.Module,
    batches: Sequence[Batch],
    accumulator: Accumulator,
    parts: Sequence[Sequence[Group]],
    passes: Passes,
) -> Scored:
    """Scores from second moments, one part of the groups at a time, since the matrices of each fit into memory.

    The moments of several parts are kept on the host if all of them fit there.
    """
    scores: dict[Site, Tensor] = {}
    kept: dict[str, Moments] = {}
    examples = list(accumulate(batch.num_examples for batch in batches))
    host_bytes = sum(matrix_bytes(model, group) for part in parts for group in part)
    keeps = len(parts) == 1 or host_bytes <= budget(torch.device("cpu"))
    for part in parts:
        on_examples = passes.next_pass()

        def on_batches(done: int, on_examples: Callable[[int], None] = on_examples) -> None:
            on_examples(examples[done - 1])

        with prepared(model):
            found = collect(model, part, batches, accumulator.options.objective, on_batches, effects=True)
        on_scored = passes.next_pass()
        for number, group in enumerate(part, 1):
            statistics = replace(accumulator.statistics(model, group), moments=found[group.module])
            scores[group.site] = accumulator.scores(statistics)
            on_scored(examples[-1] * number // len(part))
        if keeps:
            kept |= {path: kept_for_repair(moments, on_host=len(parts) > 1) for path, moments in found.items()}
    return Scored(scores, kept if keeps else None)


def kept_for_repair(moments: Moments, *, on_host: bool) -> Moments:
    """The moments without what only scores need, on the host if asked."""
    assert moments.gram_CC is not None
    return replace(moments, effect_OO=None, gram_CC=moments.gram_CC.cpu() if on_host else moments.gram_CC)


def _observe(model: nn.Module, batch: Batch, accumulator: Accumulator) -> None:
    """Run one batch, and add what the formula needs of every group to the accumulator."""
    match accumulator.formula.needs:
        case "gradients" | "moments":
            _observe_activations(model, batch, accumulator, with_gradients=True)
        case "activations":
            _observe_activations(model, batch, accumulator, with_gradients=False)
        case "stream":
            _observe_stream(model, batch, accumulator)
        case "weight gradients":
            _observe_weight_gradients(model, batch, accumulator)
    accumulator.close(batch)


def _observe_activations(model: nn.Module, batch: Batch, accumulator: Accumulator, *, with_gradients: bool) -> None:
    with ExitStack() as hooks, torch.set_grad_enabled(with_gradients):
        for group in accumulator.groups:
            if group.hook_point == "experts":
                visit = _expert_visitor(group, batch, accumulator, with_gradients=with_gradients)
                hooks.enter_context(watch_experts(model, group, visit))
            elif group.hook_point == "expert neurons":
                see = _neuron_visitor(group, batch, accumulator, with_gradients=with_gradients)
                hooks.enter_context(watch_neurons(model, group, see))
            else:
                visitor = _visitor(group, batch, accumulator, with_gradients=with_gradients)
                hooks.enter_context(watch(model, group, visitor))
        if with_gradients:
            torch.autograd.backward(objective_values(model, batch, accumulator.options.objective).sum())
        else:
            token_scores(model, batch)


def _visitor(
    group: Group, batch: Batch, accumulator: Accumulator, *, with_gradients: bool
) -> Callable[[Tensor, Tensor | None], Tensor | None]:
    """A function for `watch` that adds the activation to the accumulator, at once or when its gradient is computed."""
    shape = (*batch.masks[group.site.stack].shape, -1)  # some families flatten rows and positions into one axis

    def visit(activation: Tensor, before: Tensor | None) -> Tensor | None:
        effect = activation.detach() if before is None else (activation - before).detach()
        if not with_gradients:
            accumulator.add(group, batch, effect.view(shape), None, None if before is None else before.view(shape))
            return None
        # No tensor before the first group requires a gradient, so that the backward pass ends at its activation.
        followed = activation if activation.requires_grad else activation.detach().requires_grad_()
        followed.register_hook(
            lambda gradient: accumulator.add(group, batch, effect.view(shape), gradient.reshape(shape))
        )
        return followed

    return visit


def _expert_visitor(
    group: Group, batch: Batch, accumulator: Accumulator, *, with_gradients: bool
) -> Callable[[Tensor, Routed], Tensor | None]:
    """As `_visitor`, for `watch_experts`: the gradient of the sum over experts is that of what each of them adds."""

    def visit(output_ND: Tensor, routed: Routed) -> Tensor | None:
        if not with_gradients:
            accumulator.add_experts(group, batch, routed, None)
            return None
        followed_ND = output_ND if output_ND.requires_grad else output_ND.detach().requires_grad_()
        followed_ND.register_hook(
            lambda gradient_ND: accumulator.add_experts(group, batch, routed, routed.effect_NK(gradient_ND))
        )
        return followed_ND

    return visit


def _neuron_visitor(
    group: Group, batch: Batch, accumulator: Accumulator, *, with_gradients: bool
) -> Callable[[Tensor, RoutedTokens], Tensor | None]:
    """As `_visitor`, for `watch_neurons`."""

    def visit(output_ND: Tensor, sent: RoutedTokens) -> Tensor | None:
        if not with_gradients:
            accumulator.add_neurons(group, batch, sent, None)
            return None
        followed_ND = output_ND if output_ND.requires_grad else output_ND.detach().requires_grad_()
        followed_ND.register_hook(lambda gradient_ND: accumulator.add_neurons(group, batch, sent, gradient_ND))
        return followed_ND

    return visit


@torch.no_grad()
def _observe_stream(model: nn.Module, batch: Batch, accumulator: Accumulator) -> None:
    with ExitStack() as hooks:
        for group in accumulator.groups:
            visit = partial(accumulator.add_experts, group, batch, effect_NK=None)
            hooks.enter_context(watch_experts_and_stream(model, group, visit))
        token_scores(model, batch)


def _observe_weight_gradients(model: nn.Module, batch: Batch, accumulator: Accumulator) -> None:
    names = {part.parameter for group in accumulator.groups for part in group.slices}
    parameters = {name: model.get_parameter(name) for name in names}
    for parameter in parameters.values():
        parameter.requires_grad_()
    torch.autograd.backward(objective_values(model, batch, accumulator.options.objective).sum())
    accumulator.add_weight_gradients(parameters)


@contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """Within the context the model is in evaluation mode and no weight requires a gradient."""
    was_training = {module: module.training for module in model.modules()}
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
        for parameter, requires_grad in required.items():
            parameter.requires_grad_(requires_grad)
