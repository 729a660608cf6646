"""Finds the model of a target that has to be measured: a sweep, a bound on latency or a floor under the metric.

`general_weights` compares models with several general weights.
"""

from worker.search.candidates import Candidate
from worker.search.chosen import ChosenModel
from worker.search.counted import is_within, largest_within
from worker.search.latency_bound import largest_within_latency
from worker.search.metric_floor import smallest_keeping
from worker.search.search_context import SearchContext, SlimCopy
from worker.search.sweep import SaveModel, sweep
from worker.slimming.scoring.iterative import ScorePath
from worker.stages.context import JobContext
from worker.stages.task_model import Measured, TaskModel


def search(
    context: JobContext, task_model: TaskModel, dense: Measured, path: ScorePath, save: SaveModel
) -> ChosenModel:
    """The model that meets the job's target. A sweep calls `save` with its other models that the job asks for.

    Raises InvalidRequest, and TargetUnreachable with the candidates that were measured.
    """
    running, target = SearchContext.begin(context, task_model, dense, path), context.job.request.target
    if target.sweep is not None:
        return sweep(running, target.sweep, save)
    bound = _bound(running)
    if target.keep_metric is not None:
        return smallest_keeping(running, target.keep_metric, bound)
    assert bound is not None
    cut = running.candidates.slim_copy(bound)
    return running.chosen(bound, SlimCopy(cut, judged=cut), running.all_rows)


def _bound(running: SearchContext) -> Candidate | None:
    """The largest candidate within the target's latency, parameters or bytes; None where that allows the whole model,
    or where the target has no such number."""
    target = running.context.job.request.target
    if target.latency_ms is not None:
        return largest_within_latency(running, target.latency_ms)
    if (target.parameters is target.bytes is None) or is_within(running.candidates.dense, target):
        return None
    return largest_within(running.candidates, target)
