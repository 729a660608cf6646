"""Search for the largest model whose forward pass is fast enough, by timing candidates that are cut."""

from service.contract.bisection import last_that_holds
from service.contract.request.target import LatencyBound
from worker.evaluation.latency import measure_latency
from worker.search.candidates import Candidate
from worker.search.search_context import SearchContext


def largest_within_latency(search: SearchContext, bound: LatencyBound) -> Candidate:
    """The largest candidate whose median forward pass takes at most `bound.value` milliseconds.

    Raises TargetUnreachable where no candidate is fast enough.
    """
    ratios = search.candidates.grid()
    if not ratios:
        raise search.curve.unreachable(f"nothing can be removed: {search.candidates.least_removal}", "latency_ms")

    def is_too_slow(number: int) -> bool:
        return _milliseconds(search, search.candidates.at(ratios[number - 1]), bound) > bound.value

    too_slow = last_that_holds(len(ratios), is_too_slow)
    if too_slow == len(ratios):
        least = min(point.latency_ms for point in search.curve.points if point.latency_ms is not None)
        message = f"the fastest model that can be made takes {least:.2f} ms, more than the target of {bound.value:g} ms"
        raise search.curve.unreachable(message, "latency_ms")
    return search.candidates.at(ratios[too_slow])


def _milliseconds(search: SearchContext, candidate: Candidate, bound: LatencyBound) -> float:
    """The median time of the cut candidate's forward pass, measured once for each candidate."""
    known = search.curve.find(candidate)
    if known is not None and known.latency_ms is not None:
        return known.latency_ms
    slim = search.candidates.slim_copy(candidate)
    examples, report = slim.evaluation.examples, search.curve.report_progress
    milliseconds = measure_latency(slim.loaded.model, examples, slim.padding, bound.batch, bound.tokens, report)
    search.curve.add(candidate, latency_ms=milliseconds, meets=milliseconds <= bound.value)
    return milliseconds
