"""What a shard measures: the dense model's answers to a part of the evaluation rows, and a part of the sums that unit
scores are computed from.

A measurement that the job's tenant has stored, or that an earlier run of the shard has, is not taken again.
"""

from collections.abc import Sequence
from functools import partial

from service.contract.answers.job import Stage
from service.contract.errors import blaming_task
from service.contract.request.method import check_shards
from worker.slimming.scoring import partial_sums
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Group
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, having_role
from worker.stages.evaluation.measurements import labelled, to_answer
from worker.stages.memory.batch_size import halving
from worker.stages.scores.attribution import on_device, step_ratios
from worker.stages.scores.cache import ScoreCache
from worker.stages.shards.parts import Parts, scoring
from worker.stages.shards.rows import Shard, calibrating, evaluating
from worker.stages.slim import refusing_units
from worker.stages.task_model import TaskModel, answer_all


def check(context: JobContext, sets: Sequence[EvaluationSet]) -> None:
    """Raise InvalidRequest for a job with more shards than a task has calibration rows."""
    for place, each in zip(context.job.request.placed_tasks, having_role(sets, *SLIMMED_FOR), strict=True):
        with blaming_task(place):
            check_shards(context.job.request.method, len(each.task_model.calibration.examples))


def measure(context: JobContext, cache: ScoreCache, parts: Parts, sets: Sequence[EvaluationSet], shard: Shard) -> None:
    """Measure and store the parts of one shard."""
    with context.stage(Stage.evaluate_dense):
        halving(context, sets, partial(_answer, context, cache, parts, shard))
    with context.stage(Stage.attribute):
        halving(context, sets, partial(_add_up, context, cache, parts, shard))


def _answer(context: JobContext, cache: ScoreCache, parts: Parts, shard: Shard, sets: Sequence[EvaluationSet]) -> None:
    wholes = {
        key: whole
        for key, whole in to_answer(sets, labelled(sets)).items()
        if whole.evaluation.answered and not cache.has_answers(whole) and not parts.has_answers(shard.number, whole)
    }
    own = {key: evaluating(context, whole, shard) for key, whole in wholes.items()}
    answered = answer_all(context, {key: part for key, part in own.items() if part is not None})
    for key, answers in answered.items():
        parts.add_answers(shard.number, wholes[key], answers)


def _add_up(context: JobContext, cache: ScoreCache, parts: Parts, shard: Shard, sets: Sequence[EvaluationSet]) -> None:
    ratios = step_ratios(context.job.request)
    for whole in [each.task_model for each in having_role(sets, *SLIMMED_FOR)]:
        part = calibrating(context, whole, shard)
        if part is None or cache.has_path(whole, ratios) or parts.has_sums(shard.number, whole):
            continue
        with refusing_units():
            _add_up_task(context, parts, shard, whole, part)


def _add_up_task(context: JobContext, parts: Parts, shard: Shard, whole: TaskModel, part: TaskModel) -> None:
    def store(group: Group, moments: Moments) -> None:
        parts.add_moments(shard.number, whole, part, group, moments)

    count = context.counter(len(part.calibration.examples))
    sums = partial_sums.measure(scoring(context, part), on_device(part), store, count)
    parts.add_sums(shard.number, whole, sums)
