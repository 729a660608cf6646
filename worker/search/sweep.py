"""A sweep: a model at each of the requested ratios, all measured on all evaluation rows."""

from collections.abc import Callable, Sequence

from service.storage.artifact_names import MODEL, checkpoint_name
from worker.evaluation.sequential import Comparison
from worker.search.candidates import Candidate
from worker.search.chosen import ChosenModel
from worker.search.search_context import SearchContext, SlimCopy
from worker.slimming.allocation import WidthUnreachable
from worker.slimming.units.groups import Group
from worker.stages.task_model import TaskModel

# Saves the checkpoint of a cut model in the directory of this name. It calls the last argument while it waits.
SaveModel = Callable[[Sequence[TaskModel], list[Group], Candidate, str, Callable[[], None]], object]


def sweep(search: SearchContext, ratios: list[float], save: SaveModel) -> ChosenModel:
    """Measure a model at each ratio. The one with the highest ratio among `target.artifacts` is the job's own model;
    `save` is called with the others of them.

    Raises TargetUnreachable for a ratio that no model has.
    """
    search.curve.expect(len(ratios))
    test = search.test_on(search.all_rows)
    artifacts = search.context.job.request.target.artifacts or [max(ratios)]
    chosen: tuple[Candidate, SlimCopy] | None = None
    last: tuple[int, SlimCopy, Comparison] | None = None  # (parameters, cut model, what it keeps)
    for ratio in sorted(ratios):
        candidate = _candidate_at(search, ratio)
        if ratio in artifacts:
            _check_removal(search, candidate)
        if last is None or last[0] != candidate.parameters:  # several ratios may round to the same widths
            slim = search.slim_copy(candidate)
            last = candidate.parameters, slim, test.measure(search.answers_of(slim.judged, test))
        _, slim, found = last
        name = None
        if ratio == max(artifacts):
            name, chosen = MODEL, (candidate, slim)
        elif ratio in artifacts:
            name = checkpoint_name(ratio)
            save([slim.judged], search.candidates.groups, candidate, name, search.curve.report_progress)
        measured = {"examples": len(test.examples), "metric": found.kept.metric, "share": found.kept.share}
        search.curve.add(candidate, ratio, **measured, collapse=found.collapse, artifact=name)
    assert chosen is not None
    return search.chosen(*chosen, search.all_rows)


def _candidate_at(search: SearchContext, ratio: float) -> Candidate:
    try:
        return search.candidates.at(ratio)
    except WidthUnreachable as error:
        raise search.curve.unreachable(f"{error}: sweep over lower ratios", "sweep") from error


def _check_removal(search: SearchContext, candidate: Candidate) -> None:
    """Raise TargetUnreachable for a model that is to be stored and from which nothing was removed."""
    if candidate.ratio == 0:
        message = f"a ratio of {candidate.requested_ratio:g} removes nothing: {search.candidates.least_removal}"
        raise search.curve.unreachable(message, "sweep")
