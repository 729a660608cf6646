"""From a target to the ratio that meets it, as far as it can be told without measuring a model."""

from service.contract.bisection import turning_point
from service.contract.errors import InvalidRequest, TargetUnreachable
from service.contract.fields import MAX_RATIO
from service.contract.request.job_request import JobRequest
from service.contract.request.target import Target
from service.models.families.per_layer import is_per_layer
from service.planning.least_removal import check_can_remove, check_removes_something, highest_share
from service.planning.removal import Removal, removal_at
from service.planning.widths import cuts_at, is_set_by_ratio
from service.sources.checkpoint import Checkpoint


def needs_measuring(target: Target) -> bool:
    """Whether the worker measures models to find the one that meets the target."""
    return target.is_measured and target.sweep is None and target.general_weights is None


def check_target(request: JobRequest, checkpoint: Checkpoint) -> None:
    """Raise TargetUnreachable where no model is as small, InvalidRequest where the model is small enough already."""
    target = request.target
    if target.sweep is not None:
        cuts_at(request, checkpoint, max(target.sweep))
        for ratio in {max(target.sweep), *(target.artifacts or ())}:
            check_removes_something(request, checkpoint, ratio, "target.sweep")
    elif target.ratio is not None:
        check_removes_something(request, checkpoint, target.ratio, "target.ratio")
    else:
        names = ("parameters", "bytes", "latency_ms", "keep_metric")
        name = next(name for name in names if getattr(target, name) is not None)
        check_can_remove(request, checkpoint, f"target.{name}")
    if (size := _size_of(target)) is not None:
        _highest_ratio(request, checkpoint, *size)


def find_removal(request: JobRequest, checkpoint: Checkpoint) -> Removal | None:
    """The removal that the target asks for, or the least one that it allows; None where only measurements tell.

    Raises as `check_target`.
    """
    target = request.target
    check_target(request, checkpoint)
    if target.ratio is not None:
        return removal_at(request, checkpoint, target.ratio)
    if target.sweep is not None:
        return removal_at(request, checkpoint, max(target.artifacts or target.sweep))
    size = _size_of(target)
    return None if size is None else _least_removal(request, checkpoint, *size)


def _size_of(target: Target) -> tuple[str, int] | None:
    """("parameters" or "bytes", the number) of a target that bounds the size."""
    if target.parameters is not None:
        return "parameters", target.parameters
    return None if target.bytes is None else ("bytes", target.bytes)


def _least_removal(request: JobRequest, checkpoint: Checkpoint, name: str, number: int) -> Removal | None:
    """The least removal after which the model has at most `number` parameters or bytes."""
    highest = _highest_ratio(request, checkpoint, name, number)
    if highest is None:
        return None

    def is_above(ratio: float) -> bool:
        return _size(removal_at(request, checkpoint, ratio), name) > number

    return removal_at(request, checkpoint, turning_point(0.0, highest, is_above)[1])


def _highest_ratio(request: JobRequest, checkpoint: Checkpoint, name: str, number: int) -> float | None:
    """The highest ratio that leaves a width everywhere; its model has at most `number` parameters or bytes.

    None where the dense model has no more and the target also bounds the metric, which then decides alone.
    """
    dense = _size(removal_at(request, checkpoint, 0.0), name)
    if dense <= number:
        if request.target.keep_metric is not None:
            return None
        message = f"the model has {dense} {name}, and the target allows {number}: ask for fewer"
        raise InvalidRequest(message, param=f"target.{name}")
    highest = _highest(request, checkpoint)
    least = _size(removal_at(request, checkpoint, highest), name)
    if least > number:
        message = f"the smallest model that can be made has {least} {name}, more than {number}"
        raise TargetUnreachable(message, param=f"target.{name}")
    return highest


def _size(removal: Removal, name: str) -> int:
    return removal.parameters if name == "parameters" else removal.bytes


def _highest(request: JobRequest, checkpoint: Checkpoint) -> float:
    """The highest ratio that leaves a width everywhere."""
    if not is_set_by_ratio(request):
        is_counted_by_worker = is_per_layer(checkpoint.config)  # where widths differ
        return MAX_RATIO if is_counted_by_worker else min(MAX_RATIO, highest_share(request, checkpoint))

    def is_reached(ratio: float) -> bool:
        try:
            return bool(cuts_at(request, checkpoint, ratio))
        except TargetUnreachable:
            return False

    return MAX_RATIO if is_reached(MAX_RATIO) else turning_point(0.0, MAX_RATIO, is_reached)[0]
