"""Targets that are met by counting parameters or bytes: a ratio, or the largest model within a number."""

from service.contract.bisection import turning_point
from service.contract.errors import InvalidRequest, TargetUnreachable
from service.contract.request.target import Target
from worker.search.candidates import Candidate, Candidates
from worker.slimming.allocation import WidthUnreachable


def counted_candidate(candidates: Candidates, target: Target) -> Candidate:
    """The candidate of a target that needs no measurement. Raises InvalidRequest or TargetUnreachable."""
    if target.ratio is None:
        return largest_within(candidates, target)
    try:
        candidate = candidates.at(target.ratio)
    except WidthUnreachable as error:
        raise TargetUnreachable(f"{error}: ask for a lower ratio", param="target.ratio") from error
    if candidate.ratio == 0:
        message = f"a ratio of {target.ratio:g} removes nothing: {candidates.least_removal}"
        raise TargetUnreachable(message, param="target.ratio")
    return candidate


def counted_bound(target: Target) -> tuple[str, int]:
    """(`parameters` or `bytes`, the number of them that the target allows)."""
    name, number = ("parameters", target.parameters) if target.bytes is None else ("bytes", target.bytes)
    assert number is not None
    return name, number


def is_within(candidate: Candidate, target: Target) -> bool:
    """Whether a candidate has at most the parameters or bytes that the target allows."""
    name, number = counted_bound(target)
    return int(getattr(candidate, name)) <= number


def largest_within(candidates: Candidates, target: Target) -> Candidate:
    """The largest candidate with at most the parameters or bytes that the target allows.

    Raises InvalidRequest where the whole model is within the target, TargetUnreachable where no candidate is.
    """
    name, number = counted_bound(target)

    def size(ratio: float) -> int:
        return int(getattr(candidates.at(ratio), name))

    if is_within(candidates.dense, target):
        message = f"the model has {size(0.0)} {name} as it is, which is within the target of {number}: ask for fewer"
        raise InvalidRequest(message, param=f"target.{name}")
    least = size(candidates.highest_ratio)
    if least > number:
        message = f"the smallest model that can be made has {least} {name}, more than the target of {number}"
        raise TargetUnreachable(message, param=f"target.{name}")
    return candidates.at(turning_point(0.0, candidates.highest_ratio, lambda ratio: size(ratio) > number)[1])
