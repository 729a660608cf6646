"""The scores of a job's units: of its task, of the tasks of a union together, and of the rows of the vocabulary."""

from collections.abc import Sequence
from functools import partial

from service.contract.options import Unit
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.multi_task import united_paths
from worker.stages import recovery, vocabulary
from worker.stages.context import JobContext
from worker.stages.evaluation import evaluation_sets
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, Role, having_role, own
from worker.stages.inputs import Sources
from worker.stages.method import task_rules
from worker.stages.scores import dial as dials
from worker.stages.scores.attribution import attribute, compares_general_rows, mixed, step_ratios
from worker.stages.scores.cache import ScoreCache
from worker.stages.slim import scored_groups
from worker.stages.task_model import TaskModel


def score(
    context: JobContext, cache: ScoreCache, sets: Sequence[EvaluationSet]
) -> tuple[ScorePath, list[EvaluationSet], TaskModel, list[dials.Setting]]:
    """(the unit scores, the sets without the rows that a recovery holds out, the model with the rows to repair it on,
    the same with each general weight that is compared).

    The scores are those of all rows, so that they do not depend on the recovery.
    """
    if not context.job.request.method.scored_units:
        return vocabulary.UNSCORED, list(sets), own(sets).task_model, []
    if context.job.request.target.general_weights is not None:
        compared = dials.settings(context, own(sets).task_model, general_model(sets), cache)
        [chosen] = [each for each in compared if each.weight == context.job.request.method.general_weight]
        return chosen.path, list(sets), chosen.task_model, compared
    all_rows = calibrated(context, sets)
    path = score_tasks(context, sets, all_rows, cache)
    if context.job.request.recovery is None:
        return path, list(sets), all_rows, []
    remaining = recovery.with_rows_held_out(context, sets)
    return path, remaining, calibrated(context, remaining), []


def score_tasks(
    context: JobContext, sets: Sequence[EvaluationSet], calibrated: TaskModel, cache: ScoreCache
) -> ScorePath:
    """The unit scores of the task, or of all tasks of a union together.

    `calibrated` has all rows of the job's repair, on which a task with a mixture of general rows is scored.
    """
    method = context.job.request.method
    ratios = step_ratios(context.job.request)
    general = general_model(sets) if compares_general_rows(method) else None
    if method.general_weight > 0 and general is None:
        return cache.path(calibrated, ratios, partial(attribute, context, calibrated, ratios), general_model(sets))
    scored = [each.task_model for each in having_role(sets, *SLIMMED_FOR)]
    attributes = [partial(attribute, context, each, ratios, general, cache.measured(each)) for each in scored]
    paths = [cache.path(each, ratios, take, general) for each, take in zip(scored, attributes, strict=True)]
    groups, layout = scored_groups(context, own(sets).task_model), context.job.request.output.layout
    return united_paths(paths, method.union, groups, task_rules(context.job.request, layout))


def calibrated(context: JobContext, sets: Sequence[EvaluationSet]) -> TaskModel:
    """The model of the job's own task with all rows that it is repaired on: those of every task of a union, and general
    rows by their weight."""
    task_model = evaluation_sets.calibrated_on_all_tasks(sets)
    if context.job.request.method.general_weight == 0:
        return task_model
    return mixed(context, task_model, general_model(sets))


def general_model(sets: Sequence[EvaluationSet]) -> TaskModel:
    """The model with the general rows, which the request has."""
    [general] = having_role(sets, Role.general)
    return general.task_model


def with_token_use(context: JobContext, path: ScorePath, sets: Sequence[EvaluationSet], sources: Sources) -> ScorePath:
    """The unit scores with those of the rows of the vocabulary, where these are among the units."""
    if Unit.vocabulary not in context.job.request.method.units:
        return path
    return vocabulary.with_use(path, vocabulary.token_use(context, sets, sources.texts))
