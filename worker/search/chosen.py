"""The model that meets a job's target, and the part of the dense metric that it keeps."""

from dataclasses import dataclass, field

from service.contract.answers.result import CurvePoint, KeptMetric
from worker.evaluation.bootstrap import kept_share
from worker.evaluation.sequential import Verdict
from worker.recovery.recovered import Recovered
from worker.search.candidates import Candidate
from worker.slimming.units.groups import Group
from worker.stages.context import JobContext
from worker.stages.task_model import Measured, TaskModel

SPLIT_SEED = 0  # of the split into rows that steer a search and rows that report its result


@dataclass(frozen=True)
class ChosenModel:
    """The model that meets the target, and what was measured to choose it."""

    candidate: Candidate
    groups: list[Group]
    task_model: TaskModel  # cut, with the evaluation rows that the result is reported on
    dense: Measured  # the dense model on the same rows
    rows: list[int]  # indices of the same rows among all evaluation rows
    curve: list[CurvePoint] = field(default_factory=list)  # the candidates that were measured
    steering: Verdict | None = None  # of the rows that steered a search for a floor
    recovered: Recovered | None = None  # the same model after its recovery, where the search has recovered it


def kept_metric(context: JobContext, chosen: ChosenModel, slim: Measured) -> KeptMetric | None:
    """The share of the dense metric on the steering and on the reported rows; None for a target without a floor."""
    floor, steering = context.job.request.target.keep_metric, chosen.steering
    if floor is None or steering is None:
        return None
    metric, examples = chosen.task_model.metric, chosen.task_model.evaluation.examples
    reported = kept_share(metric, slim.answers, chosen.dense.answers, examples)
    return KeptMetric(
        metric=metric,
        floor=floor,
        steering_examples=steering.examples,
        steering=steering.found.kept.share,
        reported_examples=len(chosen.rows),
        reported=reported.share,
        seed=SPLIT_SEED,
    )
