"""The candidates of a search: models along a path of scores, counted before they are cut and cut as copies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod

import torch

from service.contract.bisection import last_that_holds, turning_point
from service.contract.fields import MAX_RATIO
from service.contract.options import Merge, Repair
from service.sources.safetensors_header import DTYPES, TensorShape, file_size
from service.sources.stored_experts import in_files
from worker.checkpoints.dtypes import fixed_parameters
from worker.slimming.allocation import WidthUnreachable, share_removed
from worker.slimming.repair.bias import add_zero_biases
from worker.slimming.repair.repairs import measure_moments
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.surgery import slicing
from worker.slimming.surgery.shapes import buffer_shapes_after, shapes_after
from worker.slimming.units.groups import Kept
from worker.stages.context import JobContext
from worker.stages.merging import ExpertMerge
from worker.stages.slim import (
    all_units,
    choose,
    cut_task_model,
    locate_groups,
    refusing_repairs,
    repair_input,
    repair_model,
    scored_groups,
)
from worker.stages.task_model import TaskModel

STEP = 0.01  # between the ratios of a search's grid


@dataclass(frozen=True)
class Candidate:
    """A model that a target may choose: the units that it keeps, and its size."""

    requested_ratio: float  # from which the widths follow
    ratio: float  # share of the chosen units' parameters that is removed
    kept: Kept
    parameters: int
    bytes: int  # of the files with the weights


class Candidates:
    """All candidates along a path of scores. The given model stays whole.

    `on_progress` is called during every longer computation, and may raise to end it.
    """

    def __init__(
        self,
        context: JobContext,
        task_model: TaskModel,
        path: ScorePath,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._context, self._task_model, self._path, self._on_progress = context, task_model, path, on_progress
        self._add_biases()
        self.groups = locate_groups(context, task_model)
        self._merge: ExpertMerge | None = None
        if context.job.request.method.merge is Merge.uncurl:
            self._merge = ExpertMerge(context, task_model, self.groups, path.at(0.0), on_progress)
        self.at = cache(self._at)

    def _at(self, ratio: float) -> Candidate:
        """The candidate for a ratio. Raises WidthUnreachable where a layer cannot be so narrow."""
        self._on_progress()
        kept = choose(self._context, self.groups, self._path.at(ratio), ratio)
        if self._merge is not None and ratio > 0:
            kept = self._merge.representatives(kept)
        loaded, architecture = self._task_model.loaded, self._task_model.architecture
        shapes = shapes_after(loaded.model, architecture, self.groups, kept)
        for name in fixed_parameters(loaded.model):
            shapes.pop(name)
        buffers = buffer_shapes_after(loaded.model, architecture, self.groups, kept)
        tensors = {name: _tensor_shape(loaded.dtype, shape) for name, shape in shapes.items()}
        tensors |= {name: _tensor_shape(self._buffer_dtypes[_leaf(name)], shape) for name, shape in buffers.items()}
        return Candidate(
            requested_ratio=ratio,
            ratio=share_removed(self.groups, {site: kept_K.numel() for site, kept_K in kept.items()}),
            kept=kept,
            parameters=sum(map(prod, shapes.values())),
            bytes=file_size(in_files(tensors, loaded.family.names.expert_files)),
        )

    @property
    def dense(self) -> Candidate:
        """The whole model."""
        return self.at(0.0)

    @cached_property
    def highest_ratio(self) -> float:
        """The highest ratio that rounding and the least widths of the layers allow."""
        return MAX_RATIO if self._is_reachable(MAX_RATIO) else turning_point(0.0, MAX_RATIO, self._is_reachable)[0]

    def grid(self, *extra: float) -> list[float]:
        """The ratios that a search may choose, ascending: multiples of STEP that remove something, the highest one, and
        `extra`."""
        steps = [round(STEP * number, 2) for number in range(1, round(MAX_RATIO / STEP) + 1)]
        below = [ratio for ratio in steps if ratio < self.highest_ratio] + [self.highest_ratio]
        idle = last_that_holds(len(below), lambda number: self.at(below[number - 1]).ratio == 0)
        return sorted({*below[idle:], *extra})

    @property
    def least_removal(self) -> str:
        """The least that can be removed, in words."""
        least = next(iter(self.grid()), None)
        if least is None:
            return "the units of this model cannot be removed one by one: choose other units"
        return f"the least that can be removed is a ratio of {self.at(least).ratio:.3g}"

    def slim_copy(self, candidate: Candidate) -> TaskModel:
        """A copy of the model, repaired and cut to the candidate.

        Raises InvalidRequest where the family does not support the repair.
        """
        loaded = self._task_model.loaded
        copy = replace(self._task_model, loaded=replace(loaded, model=slicing.copy_sharing_tensors(loaded.model)))
        self._repair(copy, candidate.kept)
        self.merge(copy, candidate.kept)
        return cut_task_model(self._context, copy, candidate.kept, self._context.job.request.output.layout)

    def merge(self, task_model: TaskModel, kept: Kept) -> None:
        """Merge the experts of the model, or of a copy of it, into those that are kept, where the job asks for it."""
        if self._merge is not None:
            self._merge.apply(task_model, kept)

    def _is_reachable(self, ratio: float) -> bool:
        try:
            return bool(self.at(ratio))
        except WidthUnreachable:
            return False

    @cached_property
    def _buffer_dtypes(self) -> dict[str, torch.dtype]:
        """Name in its module -> dtype of the tensors of a checkpoint that are no parameters; the same in all layers."""
        return {_leaf(name): tensor.dtype for name, tensor in self._task_model.loaded.model.state_dict().items()}

    def _add_biases(self) -> None:
        """Add the parameters that the repair `bias` needs, so that they are counted."""
        if self._context.job.request.method.repair is Repair.bias:
            groups = scored_groups(self._context, self._task_model)
            with refusing_repairs():
                add_zero_biases(self._task_model.loaded.model, self._task_model.architecture, all_units(groups))

    def _repair(self, copy: TaskModel, kept: Kept) -> None:
        if self._context.job.request.method.repair is not Repair.none:
            repair_model(self._context, copy, kept, self._moments, lambda done, total: self._on_progress())

    @cached_property
    def _moments(self) -> Mapping[str, Moments] | None:
        """The moments of the dense model that the repair of every candidate uses, taken once."""
        task_model, method = self._task_model, self._context.job.request.method.repair
        if self._path.moments is not None:
            return self._path.moments
        dense = repair_input(self._context, task_model, all_units(self.groups))
        return measure_moments(replace(dense, on_progress=lambda done, total: self._on_progress()), method)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _tensor_shape(dtype: torch.dtype, shape: Sequence[int]) -> TensorShape:
    return TensorShape(DTYPES[str(dtype).removeprefix("torch.")], tuple(shape))
