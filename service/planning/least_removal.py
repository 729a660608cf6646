"""Whether a request removes anything at all, and the least that can be removed.

Units are removed in steps: whole layers, whole key-value groups, multiples of `round_to`. A small ratio can round to no
removal, and a single head leaves nothing to remove. Such a request is refused with what would be possible.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace

from service.contract.errors import TargetUnreachable
from service.contract.options import Layout, Scope, Unit
from service.contract.request.job_request import JobRequest
from service.models.families.per_layer import is_per_layer
from service.models.tensors.names import EXPERT_NEURONS, SHARED_NEURONS
from service.planning.removal import count_chosen
from service.planning.widths import Cut, cuts_at, is_set_by_ratio, possible_cuts
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import vocabulary_rows

TOLERANCE = 0.02  # the share of a ratio by which the worker's global rank may miss it
# In a global rank every layer keeps this share of its units; the worker has the same floor (a test compares them).
FLOOR = 0.05


def check_removes_something(request: JobRequest, checkpoint: Checkpoint, ratio: float, param: str) -> None:
    """Raise TargetUnreachable where a ratio removes nothing, or more than a global rank can."""
    if is_per_layer(checkpoint.config):  # widths that differ are counted by the worker, which has the same check
        return
    if is_set_by_ratio(request):
        removes = any(cut.slim < cut.dense for cut in cuts_at(request, checkpoint, ratio))
    else:
        _check_most(request, checkpoint, ratio, param)
        steps = list(_global_steps(request, checkpoint))
        removes = bool(steps) and min(steps) < 2 * ratio  # a step that is nearer to the ratio than no step
    if not removes:
        raise TargetUnreachable(f"a ratio of {ratio:g} removes nothing: {possible(request, checkpoint)}", param=param)


def check_can_remove(request: JobRequest, checkpoint: Checkpoint, param: str) -> None:
    """Raise TargetUnreachable for a target that is measured where no unit can be removed at all."""
    if not is_per_layer(checkpoint.config) and not any(_steps(request, checkpoint)):
        raise TargetUnreachable(f"nothing can be removed: {possible(request, checkpoint)}", param=param)


def possible(request: JobRequest, checkpoint: Checkpoint) -> str:
    """What the least removal of each kind of unit would be, in words."""
    return "; ".join(_in_words(request, checkpoint, *cut) for cut in possible_cuts(request, checkpoint))


def _in_words(request: JobRequest, checkpoint: Checkpoint, cut: Cut, choices: Sequence[int]) -> str:
    fewer = _next_below(cut.dense, choices)
    name = PART_NAMES.get(cut.part, NAMES[cut.unit])
    units, is_rounded = f"{cut.dense} {name} of the {cut.stack.name}", cut.unit is Unit.ffn
    if fewer is None:
        way_out = f"send an `output.round_to` below {cut.dense}" if is_rounded else "choose other units"
        return f"none of the {units} can be removed: {way_out}"
    share = _share(request, checkpoint, replace(cut, slim=fewer))
    way_out = ", or less with a smaller `output.round_to`" if is_rounded else ""
    return f"the least removal leaves {fewer} of the {units}, which is a ratio of {share:.3g}{way_out}"


NAMES = {
    Unit.ffn: "feed-forward neurons",
    Unit.heads: "key-value groups",
    Unit.head_dims: "dimensions of a head",
    Unit.layers: "layers",
    Unit.experts: "experts",
    Unit.vocabulary: "rows of the vocabulary",
}
PART_NAMES = {EXPERT_NEURONS: "neurons of an expert", SHARED_NEURONS: "neurons of a shared expert"}


def _steps(request: JobRequest, checkpoint: Checkpoint) -> Iterator[Cut]:
    """The least removal of each kind of unit of each stack, where there is one."""
    for cut, choices in possible_cuts(request, checkpoint):
        fewer = _next_below(cut.dense, choices)
        if fewer is not None and _is_above_floor(request, cut, fewer):
            yield replace(cut, slim=fewer)


def _next_below(dense: int, choices: Sequence[int]) -> int | None:
    """The largest choice below `dense`; None where there is none. `choices` ascend."""
    place = bisect_left(choices, dense)
    return choices[place - 1] if place else None


def _global_steps(request: JobRequest, checkpoint: Checkpoint) -> Iterator[float]:
    """The share of the parameters that the least removal of each kind of unit takes in a global rank."""
    for cut in _steps(request, checkpoint):
        share = _share(request, checkpoint, cut)
        in_one_layer = request.output.layout is Layout.per_layer and cut.unit not in (Unit.layers, Unit.vocabulary)
        yield share / _num_layers(request, checkpoint, cut) if in_one_layer else share


def _num_layers(request: JobRequest, checkpoint: Checkpoint, cut: Cut) -> int:
    only_layers = request.model_copy(update={"method": request.method.model_copy(update={"units": [Unit.layers]})})
    return next(each.dense for each, _ in possible_cuts(only_layers, checkpoint) if each.stack.name == cut.stack.name)


def _check_most(request: JobRequest, checkpoint: Checkpoint, ratio: float, param: str) -> None:
    """Refuse a ratio that the worker does not reach: it keeps tokens, and in a global rank units of every layer."""
    most = highest_share(request, checkpoint)
    if most == 0:
        check_can_remove(request, checkpoint, param)
    if most < ratio * (1 - TOLERANCE):
        reason = f"a ratio of {ratio:g} is more than {_what_limits(request, checkpoint)} to remove"
        raise TargetUnreachable(f"{reason}: ask for at most {most:.3f}", param=param)


def highest_share(request: JobRequest, checkpoint: Checkpoint) -> float:
    """The largest share of the chosen units' parameters that can be removed where the ratio alone does not set widths.

    Of the vocabulary this is an upper bound: which tokens the texts need is known only to the worker.
    """
    least = [
        replace(cut, slim=next((count for count in choices if _is_above_floor(request, cut, count)), cut.dense))
        for cut, choices in possible_cuts(request, checkpoint)
    ]
    chosen, removed = count_chosen(request.method, checkpoint, least)
    return removed / chosen


def _what_limits(request: JobRequest, checkpoint: Checkpoint) -> str:
    """What a ratio that is too high is measured against, in words."""
    others = "the floors, protected layers and rounding leave"
    if Unit.vocabulary not in request.method.units:
        return others
    rows, least = vocabulary_rows(checkpoint), checkpoint.least_rows or 1
    tokens = f"the vocabulary has, of whose {rows} rows any text may need {least}"
    return f"{tokens}, and {others}" if request.method.scored_units else tokens


def _is_above_floor(request: JobRequest, cut: Cut, count: int) -> bool:
    if cut.unit is Unit.layers:
        return count >= max(1, request.method.protect_first + request.method.protect_last)
    if cut.unit is Unit.vocabulary:
        return True
    return request.method.scope is Scope.layer or count >= FLOOR * cut.dense


def _share(request: JobRequest, checkpoint: Checkpoint, cut: Cut) -> float:
    """The share of the chosen parameters that one cut removes."""
    others = (each for each, _ in possible_cuts(request, checkpoint))
    key = (cut.stack, cut.unit, cut.part)
    cuts = [cut if (each.stack, each.unit, each.part) == key else each for each in others]
    chosen, removed = count_chosen(request.method, checkpoint, cuts)
    return removed / chosen
