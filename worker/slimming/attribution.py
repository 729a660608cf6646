"""Scores of every unit of every layer, accumulated over data: the expensive part of slimming.

One forward and one backward pass of a batch serve all layers. The backward pass computes gradients of activations
alone and ends at the first group: its activation is the leaf.

Shape suffixes as in criteria.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.criteria import CRITERIA, Criterion, Evidence, Observation, Options
from worker.slimming.groups import Group, Site, locate, weights_UF
from worker.slimming.objectives import OBJECTIVES, Batch, token_log_probabilities


def score(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Iterable[Batch],
    criterion: str,
    options: Options,
    on_examples: Callable[[int], None] = lambda done: None,
) -> dict[Site, Tensor]:
    """Importance of each unit, float32 on the CPU (units), by the named criterion of CRITERIA.

    `on_examples` hears how many examples are done after each batch. The model is left as it was. The results depend on
    the examples alone, not on how they are batched, up to the rounding of the model's own dtype.
    """
    row, groups = CRITERIA[criterion], locate(model, architecture, units)
    tally = Tally(row, options, groups)
    if row.needs != "weights":
        with _prepared(model):
            for batch in batches:
                _observe(model, groups, batch, tally)
                on_examples(tally.num_examples)
    return {group.site: row.conclude(tally.evidence(model, group), options).cpu() for group in groups}


class Tally:
    """What has been added up so far."""

    def __init__(self, criterion: Criterion, options: Options, groups: Sequence[Group]) -> None:
        self.criterion = criterion
        self.options = options
        self.sums: dict[Site, Tensor] = {}
        self.num_examples = 0
        self.num_tokens = dict.fromkeys((group.site.stack for group in groups), 0)

    def add(self, group: Group, batch: Batch, activation: Tensor, gradient: Tensor | None) -> None:
        """Add what `group` shows of `batch`; tensors are (B, T, C), or (B * T, C) where a family flattens them."""
        assert self.criterion.observe is not None
        mask_BT = batch.masks[group.site.stack]
        shape = (*mask_BT.shape, -1)
        seen = Observation(
            activation_BTC=activation.detach().view(shape),
            gradient_BTC=None if gradient is None else gradient.view(shape),
            mask_BT=mask_BT,
            example_B=batch.example_B,
            num_examples=batch.num_examples,
            size=group.size,
        )
        sums_SU = self.criterion.observe(seen, self.options)
        known = self.sums.get(group.site)
        self.sums[group.site] = sums_SU if known is None else known.add_(sums_SU)

    def close(self, batch: Batch) -> None:
        """Count the batch's examples and tokens."""
        self.num_examples += batch.num_examples
        for stack in self.num_tokens:
            self.num_tokens[stack] += int(batch.masks[stack].sum())

    def evidence(self, model: nn.Module, group: Group) -> Evidence:
        """All that is known of `group`."""
        return Evidence(
            site=group.site,
            sums_SU=self.sums.get(group.site, torch.empty(0, group.count, dtype=torch.float64)),
            num_examples=self.num_examples,
            num_tokens=self.num_tokens[group.site.stack],
            weights_UF=tuple(weight_UF.detach() for weight_UF in weights_UF(model, group)),
        )


def _observe(model: nn.Module, groups: Sequence[Group], batch: Batch, tally: Tally) -> None:
    """Run one batch; every group's activations (and gradients) go to the tally."""
    needs_gradient = tally.criterion.needs == "gradients"
    with ExitStack() as hooks, torch.set_grad_enabled(needs_gradient):
        for group in groups:
            contract = model.get_submodule(group.contract)
            watch = _gradient_hook(group, batch, tally) if needs_gradient else _activation_hook(group, batch, tally)
            hooks.callback(contract.register_forward_pre_hook(watch).remove)
        log_probability_M = token_log_probabilities(model, batch)
        if needs_gradient:
            torch.autograd.backward(OBJECTIVES[tally.options.objective](log_probability_M, batch).sum())
    tally.close(batch)


def _gradient_hook(group: Group, batch: Batch, tally: Tally) -> Callable[[nn.Module, Any], Any]:
    def watch(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Nothing before the first group asks for a gradient, so that the pass back ends at its activation.
        activation = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
        activation.register_hook(lambda gradient: tally.add(group, batch, activation, gradient))
        return (activation, *args[1:])

    return watch


def _activation_hook(group: Group, batch: Batch, tally: Tally) -> Callable[[nn.Module, Any], Any]:
    return lambda _, args: tally.add(group, batch, args[0], None)


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients of weights within the context."""
    was_training = {module: module.training for module in model.modules()}
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training
        for parameter in asked:
            parameter.requires_grad_()
