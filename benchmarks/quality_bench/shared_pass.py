"""One pass over the calibration rows for all that is to be compared: scores by several criteria, and moments."""

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
from worker.slimming.units import Group, Site, locate

Scores = dict[Site, Tensor]
Method = tuple[str, Options]


def score_together(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Sequence[Batch],
    methods: Mapping[str, Method],
) -> tuple[dict[str, Scores], dict[str, Moments]]:
    """(scores by method, moments by reading module); each method's scores are those that `attribution.score` gives.

    The pass is that of `moments.collect`; what the other methods need is noted beside it. Methods that need gradients
    must share one objective. All groups must be read by a module.
    """
    groups = locate(model, architecture, units)
    tallies: dict[object, Accumulator] = {}
    tally_of = {name: tallies.setdefault(_sums(method), _tally(method, groups)) for name, method in methods.items()}
    watching = list(tallies.values())
    current = list[Batch]()
    with prepared(model), ExitStack() as hooks:
        for group in groups:
            hooks.enter_context(_noting(model, group, watching, current))
        moments = collect(model, groups, _announced(batches, current, watching), _objective(watching), effects=True)
    scores = {name: _concluded(model, groups, tally_of[name], moments, *methods[name]) for name in methods}
    for known in moments.values():
        known.effect_OO = None  # a repair needs none
    return scores, moments


def _sums(method: Method) -> object:
    """Methods for which this is equal add up the same."""
    criterion, options = method
    row = CRITERIA[criterion]
    return row.observe, (row.options(options) if row.needs == "gradients" else None)


def _tally(method: Method, groups: Sequence[Group]) -> Accumulator:
    criterion, options = method
    return Accumulator(CRITERIA[criterion], CRITERIA[criterion].options(options), groups)


def _concluded(
    model: nn.Module,
    groups: Sequence[Group],
    tally: Accumulator,
    moments: Mapping[str, Moments],
    criterion: str,
    options: Options,
) -> Scores:
    row = CRITERIA[criterion]
    evidence = {group.site: replace(tally.statistics(model, group), moments=moments[group.module]) for group in groups}
    return {site: row.finalize(known, row.options(options)).float().cpu() for site, known in evidence.items()}


def _objective(tallies: Sequence[Accumulator]) -> str:
    objectives = {tally.options.objective for tally in tallies if tally.criterion.needs in ("gradients", "moments")}
    assert len(objectives) <= 1, "one backward pass has one objective"
    return objectives.pop() if objectives else "margin"


def _announced(batches: Sequence[Batch], current: list[Batch], tallies: Sequence[Accumulator]) -> Iterator[Batch]:
    """Each batch is known to the hooks while it runs, and counted afterwards."""
    for batch in batches:
        current[:] = [batch]
        yield batch
        for tally in tallies:
            tally.close(batch)


@contextmanager
def _noting(model: nn.Module, group: Group, tallies: Sequence[Accumulator], current: list[Batch]) -> Iterator[None]:
    by_gradients = [tally for tally in tallies if tally.criterion.needs == "gradients"]
    by_activations = [tally for tally in tallies if tally.criterion.needs == "activations"]

    def see(activation: Tensor, _: Tensor | None) -> Tensor:
        [batch] = current
        mask_BT = batch.masks[group.site.stack]
        seen: Any = activation.detach().view(*mask_BT.shape, -1)
        for tally in by_activations:
            tally.add(group, batch, seen, None)

        def see_gradient(gradient: Tensor) -> None:
            for tally in by_gradients:
                tally.add(group, batch, seen, gradient.reshape(seen.shape))

        followed = activation if activation.requires_grad else activation.detach().requires_grad_()
        followed.register_hook(see_gradient)
        return followed

    with watch(model, group, see):
        yield
