"""The scores of a job that compares models with several shares of general rows, all of one size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from service.contract.options import FITTED, Unit
from worker.slimming.scoring import attribution, general_rows, mixtures
from worker.slimming.scoring.criteria import NORM
from worker.slimming.scoring.general_rows import GeneralBatches, Proportions
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.mixtures import Measured, MixedMoments
from worker.slimming.scoring.objectives import Batch
from worker.slimming.units.groups import Scores
from worker.stages.context import JobContext
from worker.stages.method import objective, options
from worker.stages.scores.attribution import attribute, is_shared_exclusive, on_device, step_ratios
from worker.stages.scores.cache import ScoreCache
from worker.stages.slim import refusing_units, scored_groups
from worker.stages.task_model import TaskModel


@dataclass(frozen=True)
class Setting:
    """One share of general rows: the job as if it asked for this share alone, its rows to repair on, and its scores."""

    weight: float
    context: JobContext
    task_model: TaskModel
    path: ScorePath


def settings(context: JobContext, task_model: TaskModel, general: TaskModel, cache: ScoreCache) -> list[Setting]:
    """The settings of the job's own weight and of all others that it asks for, ascending. One pass over each kind of
    rows serves all of them."""
    request = context.job.request
    own = request.method.general_weight
    shared = _SharedPasses(context, task_model, general)
    ratios, found = step_ratios(request), []
    for weight in sorted({own, *(request.target.general_weights or ())}):
        at = with_weight(context, weight)
        rows = shared.calibrated(weight)
        # Scores of other weights are stored like those of a job with that weight, and are not scores of this job.
        stored = cache if weight == own else replace(cache, context=at, fingerprints=None)
        path = stored.path(rows, ratios, partial(shared.path, at, rows, ratios), general if weight > 0 else None)
        found.append(Setting(weight, at, rows, path))
    return found


def with_weight(context: JobContext, weight: float) -> JobContext:
    """The job as if it asked for another general weight, and for no comparison."""
    request = context.job.request
    method = request.method.model_copy(update={"general_weight": weight})
    target = request.target.model_copy(update={"general_weights": None})
    changed = request.model_copy(update={"method": method, "target": target})
    return replace(context, job=context.job.model_copy(update={"request": changed}))


@dataclass(frozen=True)
class _SharedPasses:
    """The passes over the calibration rows of the task and over general rows, each taken when it is first needed."""

    context: JobContext
    task_model: TaskModel
    general: TaskModel

    def calibrated(self, weight: float) -> TaskModel:
        """The model with general rows among its calibration batches, by the weight."""
        if weight == 0:
            return self.task_model
        rows = replace(self._general_batches, weight=weight)
        batches = general_rows.weighted(list(on_device(self.task_model)), rows, self._proportions)
        return replace(self.task_model, calibration=replace(self.task_model.calibration, batches=batches))

    def path(self, at: JobContext, rows: TaskModel, ratios: Sequence[float]) -> ScorePath:
        """The scores of the job `at` one weight, whose calibration rows are `rows`."""
        method = at.job.request.method
        is_exclusive = is_shared_exclusive(method)
        if not self._fits:
            return attribute(at, rows, ratios, self.general if is_exclusive else None)
        with refusing_units():
            scores = self._fused(method.general_weight) if is_exclusive else self._mixed(method.general_weight)
        return ScorePath(tuple(ratios), (scores,), self._moments(method.general_weight))

    def _mixed(self, weight: float) -> Scores:
        task, general = self._on_task, self._on_general
        return mixtures.scores(task, general, self._proportions, weight, self._criterion, options(self.context))

    def _fused(self, weight: float) -> Scores:
        chosen = self._criterion, options(self.context)
        task, general = (mixtures.scores_of(each, *chosen) for each in (self._on_task, self._on_general))
        return general_rows.shared_exclusive(task, general, *self._norms, weight)

    def _moments(self, weight: float) -> MixedMoments | None:
        """The moments for a repair on the same rows, where the criterion has measured them."""
        is_fitted = self.context.job.request.method.repair in FITTED
        groups = scored_groups(self.context, self.task_model)
        task, general = (mixtures.moments_of(groups, each) for each in (self._on_task, self._on_general))
        return MixedMoments(task, general, self._proportions, weight) if is_fitted and task else None

    # --- passes

    @property
    def _criterion(self) -> str:
        return self.context.job.request.method.criterion

    @property
    def _units(self) -> list[Unit]:
        return self.context.job.request.method.scored_units

    @cached_property
    def _fits(self) -> bool:
        with refusing_units():
            return mixtures.fit_in_memory(self.task_model.loaded.model, self.task_model.architecture, self._units)

    @cached_property
    def _general_batches(self) -> GeneralBatches:
        of_general = objective(self.context.job.request.method, self.general)
        return GeneralBatches(list(on_device(self.general)), of_general, 1.0)

    @cached_property
    def _proportions(self) -> Proportions:
        model, architecture = self.task_model.loaded.model, self.task_model.architecture
        task, chosen = list(on_device(self.task_model)), options(self.context).objective
        with refusing_units():
            return general_rows.proportions(model, architecture, self._units, task, self._general_batches, chosen)

    @cached_property
    def _on_task(self) -> Measured:
        return self._measured(list(on_device(self.task_model)), 0)

    @cached_property
    def _on_general(self) -> Measured:
        rows = self._general_batches
        batches = [replace(batch, objective=rows.objective) for batch in rows.batches]
        return self._measured(batches, sum(batch.num_examples for batch in self.task_model.calibration.batches))

    def _measured(self, batches: Sequence[Batch], before: int) -> Measured:
        counts = (each.calibration.batches for each in (self.task_model, self.general))
        count = self.context.counter(sum(batch.num_examples for part in counts for batch in part))
        return mixtures.measure(
            self.task_model.loaded.model,
            self.task_model.architecture,
            self._units,
            batches,
            self._criterion,
            options(self.context),
            lambda done: count(before + done),
        )

    @cached_property
    def _norms(self) -> tuple[Scores, Scores]:
        """The norms of the activations on rows of the task, and on general rows."""
        model, architecture = self.task_model.loaded.model, self.task_model.architecture
        chosen = options(self.context)
        task, general = (
            attribution.score(model, architecture, self._units, on_device(each), NORM, chosen).scores
            for each in (self.task_model, self.general)
        )
        return task, general
