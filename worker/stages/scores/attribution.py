"""Scores the units of a task on its calibration rows, and on general rows where the method uses them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from service.contract.criteria import CRITERIA
from service.contract.fields import MAX_RATIO
from service.contract.options import GeneralRule
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method
from service.contract.request.target import Target
from worker.slimming.repair.repairs import FITTED
from worker.slimming.scoring import attribution, general_rows
from worker.slimming.scoring.attribution import Measure, Scored
from worker.slimming.scoring.criteria import NORM
from worker.slimming.scoring.iterative import ScorePath, follow, schedule
from worker.slimming.scoring.objectives import Batch
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Kept, Scores
from worker.stages.context import JobContext
from worker.stages.method import objective, options
from worker.stages.slim import choose, refusing_units, scored_groups
from worker.stages.task_model import TaskModel


def attribute(
    context: JobContext,
    task_model: TaskModel,
    ratios: Sequence[float],
    general: TaskModel | None = None,
    measured: Measure | None = None,
) -> ScorePath:
    """The score of every unit on the calibration rows; with several steps, of the units that each step keeps.

    The calibration rows of `general` are compared with those of the task, by a method that does so. `measured` gives
    the scores in one step where the rows have been run already. The path has the
    moments of the dense model where a repair on the same rows can use them.
    """
    request = context.job.request
    groups = scored_groups(context, task_model)
    count = sum(batch.num_examples for batch in task_model.calibration.batches)
    counter = context.counter(count * request.method.steps)
    step_counters = (lambda done, step=step: counter(step * count + done) for step in range(request.method.steps))
    score = measured or _scoring(context, task_model, general)
    # A union is repaired on the rows of all tasks, and a model that is recovered not on those that are held out.
    repaired_on_same_rows = request.method.repair in FITTED and not request.tasks and request.recovery is None
    dense_moments: list[Mapping[str, Moments]] = []

    def measure() -> Scores:
        with refusing_units():
            scores, moments = score(next(step_counters))
        if repaired_on_same_rows and moments is not None and not dense_moments:
            dense_moments.append(moments)  # those of the first step, which runs the dense model
        return scores

    def keep(scores: Scores, ratio: float) -> Kept:
        return choose(context, groups, scores, ratio)

    path = follow(task_model.loaded.model, task_model.architecture, ratios, measure, keep)
    return replace(path, moments=dense_moments[0]) if dense_moments else path


def _scoring(context: JobContext, task_model: TaskModel, general: TaskModel | None) -> Measure:
    """A function that scores the units of the model as it is, and reports its progress on the calibration rows."""
    method, model, architecture = context.job.request.method, task_model.loaded.model, task_model.architecture
    criterion_options = options(context)

    def by_criterion(on_examples: Callable[[int], None]) -> Scored:
        compared = () if general is None else on_device(general)
        return attribution.score(
            model,
            architecture,
            method.scored_units,
            on_device(task_model),
            method.criterion,
            criterion_options,
            on_examples,
            general=compared,
        )

    def shared_exclusive(on_examples: Callable[[int], None]) -> Scored:
        assert general is not None
        general_options = replace(criterion_options, objective=objective(method, general))
        scores, norms = [], []
        for rows, own_options in ((general, general_options), (task_model, criterion_options)):
            count = on_examples if rows is task_model else _ignore
            score = (model, architecture, method.scored_units, on_device(rows))
            scores.append(attribution.score(*score, method.criterion, own_options, count).scores)
            norms.append(
                attribution.score(model, architecture, method.scored_units, on_device(rows), NORM, own_options).scores
            )
        return Scored(general_rows.shared_exclusive(scores[1], scores[0], norms[1], norms[0], method.general_weight))

    return shared_exclusive if general is not None and is_shared_exclusive(method) else by_criterion


def _ignore(done: int) -> None:
    """Progress that is not reported."""


def on_device(task_model: TaskModel) -> Iterator[Batch]:
    """The calibration batches on the device of the model."""
    return (batch.to(task_model.loaded.model.device) for batch in task_model.calibration.batches)


def compares_general_rows(method: Method) -> bool:
    """Whether the scores compare the rows of the task with general rows."""
    return CRITERIA[method.criterion].needs_general or is_shared_exclusive(method)


def is_shared_exclusive(method: Method) -> bool:
    """Whether units are told apart by the rows on which they are more active."""
    return method.general_weight > 0 and method.general_rule is GeneralRule.shared_exclusive


def mixed(context: JobContext, task_model: TaskModel, general: TaskModel) -> TaskModel:
    """The model with general rows among its calibration batches, by the weight of the method; its examples are those of
    the task alone."""
    method = context.job.request.method
    with refusing_units():
        batches = general_rows.mixture(
            task_model.loaded.model,
            task_model.architecture,
            method.scored_units,
            list(on_device(task_model)),
            general_rows.GeneralBatches(list(on_device(general)), objective(method, general), method.general_weight),
            options(context).objective,
        )
    return replace(task_model, calibration=replace(task_model.calibration, batches=batches))


def step_ratios(request: JobRequest) -> tuple[float, ...]:
    """The ratios at which the scores of a job are taken, one for each step."""
    return schedule(_highest_ratio(request.target), request.method.steps)


def _highest_ratio(target: Target) -> float:
    """The highest ratio that a target may lead to, for which unit scores are therefore needed."""
    if target.ratio is not None:
        return target.ratio
    return max(target.sweep) if target.sweep else MAX_RATIO
