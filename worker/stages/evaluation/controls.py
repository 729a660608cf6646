"""Controls: models cut to the same ratio by other scores, with the same rules, the same repair and the same rows.

Each control is cut from a newly loaded model, so that it does not depend on other controls or on the job's own cut.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean

from service.contract.answers.job import Stage
from service.contract.answers.result import Control, Controls, Metrics
from service.contract.options import Layout, Repair, Unit
from service.contract.request.job_request import JobRequest
from worker.checkpoints.loading import LoadedModel
from worker.slimming import selection
from worker.slimming.allocation import share_removed
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.units.groups import VOCABULARY, Kept, Scores
from worker.slimming.units.locating import locate
from worker.stages.context import JobContext, StageProgress
from worker.stages.method import rules
from worker.stages.slim import slim_task_model
from worker.stages.task_model import TaskModel, evaluate

SEEDS = 3  # of random scores: `method.seed` and the two after it
MEANS = ("value", "raw")

RepairModel = Callable[[JobContext, TaskModel, Kept], None]


@dataclass(frozen=True)
class ControlInputs:
    """What controls are made of: the task in tokens, a function that loads the dense model, and the job's repair."""

    task_model: TaskModel
    load: Callable[[], LoadedModel]
    repair: RepairModel


@dataclass(frozen=True)
class ControlProgress:
    """Reports the progress within one control as the number of controls that are done."""

    progress: StageProgress
    done: int
    total: int

    def stage(self, stage: Stage) -> None:
        """A stage begins."""
        self.progress.stage(stage)

    def advance(self, done: int, total: int, unit: str) -> None:
        """A step within the control is done, which leaves the number of controls as it is."""
        self.progress.advance(self.done, self.total, "controls")


def measure(context: JobContext, inputs: ControlInputs, scores: Scores, ratio: float) -> Controls:
    """The controls of a job that removed `ratio` by the given scores. Raises what the progress of the job raises."""
    request = context.job.request
    layout, with_per_layer = request.output.layout, _may_differ_per_layer(request)
    total = SEEDS + 1 + with_per_layer

    def control(number: int, ranking: Scores | int, layout: Layout) -> Control:
        control_context = replace(context, progress=ControlProgress(context.progress, number, total))
        return _control(control_context, inputs, ranking, scores, ratio, layout)

    random = [control(number, request.method.seed + number, layout) for number in range(SEEDS)]
    reverse = control(SEEDS, reversed_scores(scores), layout)
    per_layer = None
    if with_per_layer:
        with suppress(selection.WidthUnreachable):  # no selection with a width for each layer has the ratio
            per_layer = control(SEEDS + 1, scores, Layout.per_layer)
    average = means([each.metrics for each in random])
    return Controls(random=random, random_mean=average, reverse=reverse, per_layer=per_layer)


def reversed_scores(scores: Scores) -> Scores:
    """The scores with the opposite ranking. Units that earlier steps removed (-inf) count as the lowest of all."""
    lowest = min(float(score_U[score_U.isfinite()].min()) for score_U in scores.values() if score_U.isfinite().any())
    return {site: -score_U.clamp(min=lowest) for site, score_U in scores.items()}


def means(metrics: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each field of MEANS that all of `metrics` have."""
    estimates = {name: [getattr(each, name) for each in metrics] for name in MEANS}
    return {name: fmean(each.value for each in found) for name, found in estimates.items() if None not in found}


def _may_differ_per_layer(request: JobRequest) -> bool:
    """Whether a control with a width for each layer differs from the job's own selection."""
    return request.output.layout is Layout.uniform and bool(
        {Unit.ffn, Unit.heads, Unit.experts} & set(request.method.units)
    )


def _control(
    context: JobContext, inputs: ControlInputs, ranking: Scores | int, scores: Scores, ratio: float, layout: Layout
) -> Control:
    """The control of the scores in `ranking`, or of random scores with `ranking` as their seed.

    `scores` are those of the job, of which those of the vocabulary are used as they are.
    """
    request, task_model = context.job.request, replace(inputs.task_model, loaded=inputs.load())
    model, architecture, units = task_model.loaded.model, task_model.architecture, request.method.scored_units
    selection_rules = rules(request, layout)
    if isinstance(ranking, int):
        ranking = attribution.score(model, architecture, units, (), "random", Options(seed=ranking)).scores
        selection_rules = replace(selection_rules, normalisation=CRITERIA["random"].normalisation)
    # The tokens that a text needs are needed by every control.
    ranking = {**ranking, **({VOCABULARY: scores[VOCABULARY]} if VOCABULARY in scores else {})}
    groups = locate(model, architecture, request.method.units)
    kept = selection.select(ranking, groups, ratio, request.output.round_to, selection_rules)
    if request.method.repair is not Repair.none:
        inputs.repair(context, task_model, kept)
    measured = evaluate(context, slim_task_model(context, task_model, kept, layout))
    counts = {site: kept_K.numel() for site, kept_K in kept.items()}
    return Control(ratio=share_removed(groups, counts), metrics=measured.metrics)
