"""Search for the smallest model that keeps a share of the dense model's metric.

Half of the evaluation rows steer the search. The result is reported on the other half, which no candidate has seen.
"""

from service.contract.bisection import last_that_holds
from service.contract.errors import InvalidRequest
from service.contract.options import METRICS, TaskKind
from worker.data.sampling import stratified_order
from worker.evaluation.bootstrap import metric_of
from worker.evaluation.sequential import SequentialTest, Verdict
from worker.search.candidates import Candidate
from worker.search.chosen import SPLIT_SEED, ChosenModel
from worker.search.search_context import SearchContext, SlimCopy


def smallest_keeping(search: SearchContext, floor: float, bound: Candidate | None) -> ChosenModel:
    """The smallest candidate that keeps `floor` of the dense metric, and is no larger than `bound` if there is one.

    Raises InvalidRequest for fewer than two evaluation rows or a dense metric of 0, TargetUnreachable where no
    candidate meets the target.
    """
    answers = [example.target or example.answer for example in search.task_model.evaluation.examples]
    order = stratified_order(answers, SPLIT_SEED)
    steering, reported = order[: len(order) // 2], sorted(order[len(order) // 2 :])
    if not steering:
        raise InvalidRequest("`keep_metric` needs at least two evaluation rows", param="task.evaluation")
    test = search.test_on(steering)
    _check_dense(test)
    ratios = search.candidates.grid(*([bound.requested_ratio] if bound else []))
    search.curve.expect(len(ratios).bit_length())
    first = ratios.index(bound.requested_ratio) + 1 if bound else None
    floor_search = FloorSearch(search, floor, test)
    last = last_that_holds(
        len(ratios), lambda number: floor_search.holds(search.candidates.at(ratios[number - 1])), first
    )
    if last == 0 or (first is not None and last < first):
        raise search.curve.unreachable(floor_search.failure(bound), "keep_metric")
    assert floor_search.smallest is not None
    candidate, slim, verdict = floor_search.smallest
    return search.chosen(candidate, slim, reported, verdict)


def _check_dense(test: SequentialTest) -> None:
    """Raise InvalidRequest where the dense model's metric is 0 or less, of which every model keeps any share."""
    if metric_of(test.metric, test.dense, test.examples) > 0:
        return
    advice = "another template or other labels"
    if test.metric in METRICS[TaskKind.generation]:
        advice = "`task.metric: token_probability`, which is never 0"
    elif test.metric in (*METRICS[TaskKind.regression], *METRICS[TaskKind.embedding]):
        advice = "another template, or rows on which the model is of use"
    name, rows = test.metric.replace("_", " "), len(test.examples)
    found = f"the dense model's {name} is not above 0 on {rows} steering rows"
    message = f"{found}, so that there is nothing to keep: give {advice}"
    raise InvalidRequest(message, param="task.metric")


class FloorSearch:
    """Tests candidates against a floor under the metric, each once, and remembers the smallest one that holds it."""

    def __init__(self, search: SearchContext, floor: float, test: SequentialTest) -> None:
        self._search, self._floor, self._test = search, floor, test
        self.smallest: tuple[Candidate, SlimCopy, Verdict] | None = None  # with the cut model

    def holds(self, candidate: Candidate) -> bool:
        """Whether the candidate keeps the floor."""
        curve = self._search.curve
        known = curve.find(candidate)
        if known is not None and known.share is not None:
            return bool(known.meets)
        slim = self._search.slim_copy(candidate)
        verdict = self._test.verdict(self._search.answers_of(slim.judged, self._test), self._floor)
        curve.add(
            candidate,
            examples=verdict.examples,
            metric=verdict.found.kept.metric,
            share=verdict.found.kept.share,
            collapse=verdict.found.collapse,
            latency_ms=known.latency_ms if known else None,
            meets=verdict.holds,
        )
        if verdict.holds and (self.smallest is None or candidate.parameters < self.smallest[0].parameters):
            self.smallest = (candidate, slim, verdict)
        return verdict.holds

    def failure(self, bound: Candidate | None) -> str:
        """The message for a target that no candidate meets, with the nearest one that could be met."""
        name, rows = self._test.metric.replace("_", " "), len(self._test.examples)
        floor = f"{self._floor:g} of the dense model's {name} by the lower bound on {rows} steering rows"
        if bound is None or self.smallest is None:
            return f"no smaller model was shown to keep {floor}: ask for less, or give more evaluation rows"
        smallest = self.smallest[0]
        return (
            f"no model of at most {bound.parameters} parameters was shown to keep {floor}; the smallest that was has "
            f"{smallest.parameters} parameters, {smallest.bytes} bytes"
        )
