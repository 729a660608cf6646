"""Controls: what other scores would have kept, cut by the same rules, repaired alike and judged on the same rows.

Each is cut out of a model that is loaded anew, so that no control knows of another, or of the job's own cut.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean

from torch import Tensor

from service.contract.job import Stage
from service.contract.options import Layout, Repair, Unit
from service.contract.request import JobRequest
from service.contract.result import Control, Controls, Metrics
from worker.checkpoints.cutting import cut
from worker.checkpoints.loading import LoadedModel
from worker.slimming import selection
from worker.slimming.allocation import share_removed
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.iterative import Scores
from worker.slimming.units import Site, locate
from worker.stages.context import JobContext, StageProgress
from worker.stages.method import rules
from worker.stages.task_model import TaskModel, evaluate

SEEDS = 3  # from `method.seed` on
MEANS = ("accuracy", "calibrated_accuracy", "exact_match")

Kept = dict[Site, Tensor]
Mend = Callable[[JobContext, TaskModel, Kept], None]


@dataclass(frozen=True)
class Dense:
    """What controls are made of: the task in tokens, the model whole at each call, and the job's repair."""

    task_model: TaskModel
    load: Callable[[], LoadedModel]
    repair_model: Mend


@dataclass(frozen=True)
class ControlProgress:
    """The progress of one control among all, counted in controls."""

    progress: StageProgress
    done: int
    total: int

    def stage(self, stage: Stage) -> None:
        self.progress.stage(stage)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.progress.advance(self.done, self.total, "controls")


def measure(context: JobContext, dense: Dense, scores: Scores, ratio: float) -> Controls:
    """The controls of a job that removed `ratio` by these scores. Raises what the job's progress does."""
    request = context.job.request
    layout, own_widths = request.output.layout, _may_have_own_widths(request)
    total = SEEDS + 1 + own_widths

    def control(number: int, rank: Scores | int, layout: Layout) -> Control:
        turn = replace(context, progress=ControlProgress(context.progress, number, total))
        return _control(turn, dense, rank, ratio, layout)

    random = [control(number, request.method.seed + number, layout) for number in range(SEEDS)]
    reverse = control(SEEDS, reversed_scores(scores), layout)
    per_layer = None
    if own_widths:
        with suppress(selection.WidthUnreachable):  # the floor of the layers forbids the ratio
            per_layer = control(SEEDS + 1, scores, Layout.per_layer)
    average = means([each.metrics for each in random])
    return Controls(random=random, random_mean=average, reverse=reverse, per_layer=per_layer)


def reversed_scores(scores: Scores) -> Scores:
    """The opposite rank. What earlier steps have removed, with a score of -inf, counts as the lowest of all."""
    lowest = min(float(score_U[score_U.isfinite()].min()) for score_U in scores.values() if score_U.isfinite().any())
    return {site: -score_U.clamp(min=lowest) for site, score_U in scores.items()}


def means(metrics: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each share that all have."""
    found = {name: [getattr(each, name) for each in metrics] for name in MEANS}
    return {name: fmean(share.value for share in shares) for name, shares in found.items() if None not in shares}


def _may_have_own_widths(request: JobRequest) -> bool:
    return request.output.layout is Layout.uniform and bool({Unit.ffn, Unit.heads} & set(request.method.units))


def _control(context: JobContext, dense: Dense, rank: Scores | int, ratio: float, layout: Layout) -> Control:
    """By the scores of `rank`, or by random ones of that seed, which are compared as random scores are."""
    request, task_model = context.job.request, replace(dense.task_model, loaded=dense.load())
    model, architecture, units = task_model.loaded.model, task_model.architecture, request.method.units
    told = rules(request, layout)
    if isinstance(rank, int):
        rank = attribution.score(model, architecture, units, (), "random", Options(seed=rank))
        told = replace(told, normalisation=CRITERIA["random"].normalisation)
    groups = locate(model, architecture, units)
    kept = selection.select(rank, groups, ratio, request.output.round_to, told)
    if request.method.repair is not Repair.none:
        dense.repair_model(context, task_model, kept)
    measured = evaluate(context, replace(task_model, loaded=cut(task_model.loaded, kept, layout)))
    counts = {site: kept_K.numel() for site, kept_K in kept.items()}
    return Control(ratio=share_removed(groups, counts), metrics=measured.metrics)
