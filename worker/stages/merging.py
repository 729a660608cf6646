"""Merges the experts of a model on its calibration rows, in place of removing some of them."""

from collections.abc import Callable, Mapping
from functools import cache, cached_property

from torch import Tensor

from worker.checkpoints.dtypes import round_weights
from worker.slimming.merging.clusters import cluster, representatives
from worker.slimming.merging.merging import merge
from worker.slimming.merging.router_logits import similarities
from worker.slimming.units.groups import Group, Kept, Scores, Site
from worker.stages.context import JobContext
from worker.stages.slim import repair_input
from worker.stages.task_model import TaskModel


class ExpertMerge:
    """The clusters of a model's experts, for every number of experts that a layer may keep.

    How alike experts are is measured once, in a pass over the calibration rows of the whole model.
    """

    def __init__(
        self,
        context: JobContext,
        task_model: TaskModel,
        groups: list[Group],
        scores: Scores,
        on_progress: Callable[[], None],
    ) -> None:
        self._context, self._task_model, self._groups, self._scores = context, task_model, groups, scores
        self._on_progress = on_progress
        self._clusters_of = cache(self._cluster)

    def representatives(self, kept: Kept) -> Kept:
        """The experts in whose places the merged ones stand: as many of each layer as `kept` has."""
        return {
            site: representatives(cluster_E, self._scores[site]).sort().values
            for site, cluster_E in self._clusters(kept).items()
        }

    def apply(self, task_model: TaskModel, kept: Kept) -> None:
        """Merge the experts of the model in place into as many as `kept` has, and round to the checkpoint's dtype."""
        model, clusters = task_model.loaded.model, self._clusters(kept)
        rule = self._context.job.request.method.merged_router
        batches = repair_input(self._context, task_model, kept).calibration.batches
        merge(model, self._groups, clusters, self._scores, batches, rule, lambda done: self._on_progress())
        round_weights(model, task_model.loaded.dtype)

    def _clusters(self, kept: Kept) -> dict[Site, Tensor]:
        return {group.site: self._clusters_of(group.site, kept[group.site].numel()) for group in self._groups}

    def _cluster(self, site: Site, count: int) -> Tensor:
        return cluster(self._similarities[site], self._scores[site], count)

    @cached_property
    def _similarities(self) -> Mapping[Site, Tensor]:
        batches = repair_input(self._context, self._task_model, {}).calibration.batches
        model = self._task_model.loaded.model
        return similarities(model, self._groups, batches, lambda done: self._on_progress())
