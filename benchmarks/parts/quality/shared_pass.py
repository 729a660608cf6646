"""One pass over the calibration rows for several criteria and for the moments of a repair.

Shape suffixes: B rows of a batch, T positions, O outputs of a module.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.hooks import watch
from worker.slimming.scoring.attribution import Accumulator, prepared
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments, collect
from worker.slimming.units.groups import Group, Scores
from worker.slimming.units.locating import locate

Method = tuple[str, Options]


def score_together(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Sequence[Batch],
    methods: Mapping[str, Method],
) -> tuple[dict[str, Scores], dict[str, Moments]]:
    """(scores by method, moments by module). The scores of each method equal those of `attribution.score`.

    The pass is that of `second_moments.collect`, with further hooks for what the other methods need. Methods that need
    gradients must have the same objective. The units of all groups must be inputs of a linear module.
    """
    groups = locate(model, architecture, units)
    by_key: dict[object, Accumulator] = {}
    sums_of = {name: by_key.setdefault(_key(method), _accumulator(method, groups)) for name, method in methods.items()}
    sums = list(by_key.values())
    current = list[Batch]()
    with prepared(model), ExitStack() as hooks:
        for group in groups:
            hooks.enter_context(_recording(model, group, sums, current))
        moments = collect(model, groups, _counted(batches, current, sums), _objective(sums), effects=True)
    scores = {name: _finalized(model, groups, sums_of[name], moments, *methods[name]) for name in methods}
    for known in moments.values():
        known.effect_OO = None  # not needed for a repair
    return scores, moments


def _key(method: Method) -> object:
    """A key that is equal for methods with the same sums."""
    criterion, options = method
    formula = CRITERIA[criterion]
    return formula.observe, (formula.options(options) if formula.needs == "gradients" else None)


def _accumulator(method: Method, groups: Sequence[Group]) -> Accumulator:
    criterion, options = method
    return Accumulator(CRITERIA[criterion], CRITERIA[criterion].options(options), groups)


def _finalized(
    model: nn.Module,
    groups: Sequence[Group],
    accumulator: Accumulator,
    moments: Mapping[str, Moments],
    criterion: str,
    options: Options,
) -> Scores:
    formula = CRITERIA[criterion]
    statistics = {
        group.site: replace(accumulator.statistics(model, group), moments=moments[group.module]) for group in groups
    }
    return {site: formula.finalize(known, formula.options(options)).float().cpu() for site, known in statistics.items()}


def _objective(sums: Sequence[Accumulator]) -> str:
    objectives = {
        accumulator.options.objective for accumulator in sums if accumulator.formula.needs in ("gradients", "moments")
    }
    assert len(objectives) <= 1, "one backward pass has one objective"
    return objectives.pop() if objectives else "margin"


def _counted(batches: Sequence[Batch], current: list[Batch], sums: Sequence[Accumulator]) -> Iterator[Batch]:
    """The batches; each is in `current` while it runs, for the hooks, and is counted afterwards."""
    for batch in batches:
        current[:] = [batch]
        yield batch
        for accumulator in sums:
            accumulator.close(batch)


@contextmanager
def _recording(model: nn.Module, group: Group, sums: Sequence[Accumulator], current: list[Batch]) -> Iterator[None]:
    by_gradients = [accumulator for accumulator in sums if accumulator.formula.needs == "gradients"]
    by_activations = [accumulator for accumulator in sums if accumulator.formula.needs == "activations"]

    def visit(activation: Tensor, _: Tensor | None) -> Tensor:
        [batch] = current
        mask_BT = batch.masks[group.site.stack]
        seen: Any = activation.detach().view(*mask_BT.shape, -1)
        for accumulator in by_activations:
            accumulator.add(group, batch, seen, None)

        def visit_gradient(gradient: Tensor) -> None:
            for accumulator in by_gradients:
                accumulator.add(group, batch, seen, gradient.reshape(seen.shape))

        followed = activation if activation.requires_grad else activation.detach().requires_grad_()
        followed.register_hook(visit_gradient)
        return followed

    with watch(model, group, visit):
        yield
