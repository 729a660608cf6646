"""How many units each stack keeps at a ratio, where the ratio alone decides it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm

from service.contract.answers.result import DenseSlim, Widths
from service.contract.errors import TargetUnreachable
from service.contract.options import Layout, Scope, Unit
from service.contract.request.job_request import JobRequest
from service.models.tensors.names import EXPERT_NEURONS, EXPERT_STEP, StackNames
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import (
    can_route,
    expert_count,
    ffn_width,
    head_counts,
    num_layers,
    parts_of,
    vocabulary_rows,
)


@dataclass(frozen=True)
class Cut:
    """How many units of one kind, or of one part of it, a stack has and keeps in each layer."""

    stack: StackNames
    unit: Unit
    dense: int
    slim: int
    part: str = ""  # as in `service.models.tensors.names`

    @property
    def share(self) -> float:
        """The share of the units that is kept."""
        return self.slim / self.dense


# In place of a stack: the rows of the vocabulary are in none.
VOCABULARY = StackNames("model", "", ())


def is_set_by_ratio(request: JobRequest) -> bool:
    """Whether a ratio alone decides the widths. In a global rank and with widths of each layer's own, scores do, and
    where tokens are removed, the texts."""
    has_widths = request.method.scope is Scope.layer and request.output.layout is Layout.uniform
    return has_widths and Unit.vocabulary not in request.method.units


def cuts_at(request: JobRequest, checkpoint: Checkpoint, ratio: float) -> list[Cut]:
    """The cut of every stack and unit at a ratio; none where scores decide. Raises TargetUnreachable."""
    return list(_cuts(request, checkpoint, ratio)) if is_set_by_ratio(request) else []


def _cuts(request: JobRequest, checkpoint: Checkpoint, ratio: float) -> Iterator[Cut]:
    method = request.method
    for whole, choices in _whole(request, checkpoint, method.units):
        slim = nearest([0, *choices], (1 - ratio) * whole.dense) if ratio else whole.dense
        protected = method.protect_first + method.protect_last if whole.unit is Unit.layers else 0
        cut = replace(whole, slim=slim)
        if slim < max(1, min(protected, whole.dense)):
            raise _too_few(request, cut, ratio)
        yield cut


def possible_cuts(request: JobRequest, checkpoint: Checkpoint) -> Iterator[tuple[Cut, Sequence[int]]]:
    """(a cut that removes nothing, the counts above zero that may be kept, ascending) of every stack and unit."""
    yield from _whole(request, checkpoint, request.method.scored_units)
    if Unit.vocabulary in request.method.units:
        rows = vocabulary_rows(checkpoint)
        yield Cut(VOCABULARY, Unit.vocabulary, rows, rows), range(checkpoint.least_rows or 1, rows + 1)


def _whole(request: JobRequest, checkpoint: Checkpoint, units: Iterable[Unit]) -> Iterator[tuple[Cut, Sequence[int]]]:
    """As `possible_cuts`, of these units in the layers."""
    for stack in checkpoint.names.stacks:
        for unit in sorted(units):
            for part in parts_of(checkpoint, stack, unit):
                dense, choices = _choices(request, checkpoint, stack, unit, part)
                yield Cut(stack, unit, dense, dense, part), choices


def _too_few(request: JobRequest, cut: Cut, ratio: float) -> TargetUnreachable:
    message = (
        f"a ratio of {ratio:g} leaves {cut.slim} of the {cut.dense} {cut.part or cut.unit} of the {cut.stack.name}: "
        f"ask for a lower ratio{' or a smaller round_to' if cut.unit is Unit.ffn else ''}"
    )
    return TargetUnreachable(message, param="target.ratio" if request.target.sweep is None else "target.sweep")


def _choices(
    request: JobRequest, checkpoint: Checkpoint, stack: StackNames, unit: Unit, part: str
) -> tuple[int, Sequence[int]]:
    """(units that a stack has in each layer, the counts above zero that it may keep, ascending)."""
    names = checkpoint.names
    if unit is Unit.layers:
        dense = num_layers(checkpoint, stack)
        return dense, range(1, dense + 1)
    if unit is Unit.ffn:
        dense, step = ffn_width(checkpoint, stack, part), ffn_step(checkpoint, part, request.output.round_to)
        return dense, range(step, dense + 1, step)
    if unit is Unit.head_dims:
        dense = checkpoint.number(names.head_size, stack)
        return dense, range(1, dense + 1)
    if unit is Unit.experts:
        dense = expert_count(checkpoint, stack)
        return dense, [kept for kept in range(1, dense + 1) if can_route(checkpoint, stack, kept)]
    heads, dense = head_counts(checkpoint, stack)
    must_divide = any(stack.config_in(checkpoint.config).get(field) for field in names.head_counts_divide)
    hidden, shared = checkpoint.number(names.hidden_size, stack), heads // dense
    return dense, [kept for kept in range(1, dense + 1) if not must_divide or hidden % (kept * shared) == 0]


def ffn_step(checkpoint: Checkpoint, part: str, round_to: int) -> int:
    """What the width of a block is a multiple of. Blocks of shared experts have the width of the experts."""
    in_experts = part == EXPERT_NEURONS or (part and checkpoint.names.shared_experts)
    return lcm(round_to, EXPERT_STEP) if in_experts else round_to


def nearest(choices: Iterable[int], wanted: float) -> int:
    """The choice nearest to a number, the larger one of two that are equally near, as the worker's selection rounds."""
    return min(choices, key=lambda choice: (abs(choice - wanted), -choice))


def kept(cuts: Sequence[Cut], unit: Unit, dense: int, stack: str = "decoder") -> int:
    """How many units a stack keeps; `dense` where the unit is not cut."""
    return next((cut.slim for cut in cuts if cut.unit is unit and cut.stack.name == stack), dense)


def described(cuts: Sequence[Cut], checkpoint: Checkpoint) -> list[Widths]:
    """The cuts as a plan shows them, ordered by stack and unit."""
    found = [
        Widths(
            stack=cut.stack.name,
            unit=cut.unit,
            part=cut.part or None,
            dense=cut.dense,
            slim=cut.slim,
            per_token=_per_token(cut, checkpoint) if cut.unit is Unit.experts else None,
        )
        for cut in cuts
    ]
    return sorted(found, key=lambda widths: (widths.stack, widths.unit, widths.part or ""))


def _per_token(cut: Cut, checkpoint: Checkpoint) -> DenseSlim:
    """To how many experts a token is sent, before and after a cut."""
    dense = checkpoint.number(checkpoint.names.experts_per_token, cut.stack)
    return DenseSlim(dense=dense, slim=min(dense, cut.slim))
