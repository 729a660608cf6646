"""Scores the units of a task on its calibration rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.contract.fields import MAX_RATIO
from service.contract.method import Target
from service.contract.request import JobRequest
from worker.slimming.repair.repairs import FITTED
from worker.slimming.scoring import attribution
from worker.slimming.scoring.iterative import ScorePath, follow, schedule
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units import Kept, Scores
from worker.stages.context import JobContext
from worker.stages.method import options
from worker.stages.slim import choose, locate_groups, refusing_units
from worker.stages.task_model import TaskModel


def attribute(context: JobContext, task_model: TaskModel, ratios: Sequence[float]) -> ScorePath:
    """The score of every unit on the calibration rows; with several steps, of the units that each step keeps.

    The path has the moments of the dense model where a repair on the same rows can use them.
    """
    request, model, architecture = context.job.request, task_model.loaded.model, task_model.architecture
    method, criterion_options = request.method, options(context)
    groups, count = locate_groups(context, task_model), len(task_model.calibration.examples)
    counter = context.counter(count * method.steps)
    step_counters = (lambda done, step=step: counter(step * count + done) for step in range(method.steps))
    # A union is repaired on the rows of all tasks, and a model that is recovered not on those that are held out.
    repaired_on_same_rows = method.repair in FITTED and not request.tasks and request.recovery is None
    dense_moments: list[Mapping[str, Moments]] = []

    def measure() -> Scores:
        batches = (batch.to(model.device) for batch in task_model.calibration.batches)
        criterion, on_examples = method.criterion, next(step_counters)
        with refusing_units():
            scores, moments = attribution.score(
                model, architecture, method.units, batches, criterion, criterion_options, on_examples
            )
        if repaired_on_same_rows and moments is not None and not dense_moments:
            dense_moments.append(moments)  # those of the first step, which runs the dense model
        return scores

    def keep(scores: Scores, ratio: float) -> Kept:
        return choose(context, groups, scores, ratio)

    path = follow(model, architecture, ratios, measure, keep)
    return replace(path, moments=dense_moments[0]) if dense_moments else path


def step_ratios(request: JobRequest) -> tuple[float, ...]:
    """The ratios at which the scores of a job are taken, one for each step."""
    return schedule(_highest_ratio(request.target), request.method.steps)


def _highest_ratio(target: Target) -> float:
    """The highest ratio that a target may lead to, for which unit scores are therefore needed."""
    if target.ratio is not None:
        return target.ratio
    return max(target.sweep) if target.sweep else MAX_RATIO
