"""The models that a target may end with: each one counted before it is cut, and cut as a copy where it is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod

import torch
from torch import Tensor

from service.contract.bisection import turning_point
from service.contract.fields import MAX_RATIO
from service.contract.options import Repair
from service.sources.safetensors_header import TensorShape, file_size
from worker.slimming import surgery
from worker.slimming.allocation import WidthUnreachable, share_removed
from worker.slimming.repair.bias import add_zero_biases
from worker.slimming.repair.repairs import measure_moments
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.sizes import shapes_after
from worker.slimming.units import Site
from worker.stages.context import JobContext
from worker.stages.slim import choose, cut, locate_groups, refusing_repairs, repair_input, repair_model, whole
from worker.stages.task_model import TaskModel

STEP = 0.01  # between the ratios of the models that a search looks at
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Candidate:
    """A model as it would be: what it keeps, and what that comes to."""

    asked: float  # the ratio that its widths follow from
    ratio: float  # share of the chosen units' parameters that it lacks
    kept: dict[Site, Tensor]
    parameters: int
    bytes: int  # of the weights' files


class Candidates:
    """Every model along a path of scores. The subject's own model stays whole.

    `tick` is called as long as anything takes, and ends it by raising.
    """

    def __init__(
        self, context: JobContext, task_model: TaskModel, path: ScorePath, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._context, self._task_model, self._path, self._tick = context, task_model, path, tick
        self._make_room()
        self.groups = locate_groups(context, task_model)
        self.at = cache(self._at)

    def _at(self, asked: float) -> Candidate:
        """The model for a ratio. Raises WidthUnreachable."""
        self._tick()
        kept = choose(self._context, self.groups, self._path.at(asked), asked)
        task_model = self._task_model
        shapes = shapes_after(task_model.loaded.model, task_model.architecture, self.groups, kept)
        counts = {site: kept_K.numel() for site, kept_K in kept.items()}
        dtype = DTYPES[task_model.loaded.dtype]
        stored = {name: TensorShape(dtype, shape) for name, shape in shapes.items()} | self._buffers
        return Candidate(
            asked=asked,
            ratio=share_removed(self.groups, counts),
            kept=kept,
            parameters=sum(map(prod, shapes.values())),
            bytes=file_size(stored),
        )

    @property
    def dense(self) -> Candidate:
        """Nothing removed."""
        return self.at(0.0)

    @cached_property
    def highest(self) -> float:
        """The highest ratio that rounding and floors leave to reach."""
        return MAX_RATIO if self._reaches(MAX_RATIO) else turning_point(0.0, MAX_RATIO, self._reaches)[0]

    def grid(self, *more: float) -> list[float]:
        """The ratios that a search looks at, `more` among them, ascending."""
        steps = (round(STEP * number, 2) for number in range(1, round(MAX_RATIO / STEP) + 1))
        return sorted({ratio for ratio in steps if ratio < self.highest} | {self.highest, *more})

    def cut(self, candidate: Candidate) -> TaskModel:
        """The subject with a repaired and cut copy of its model. Raises InvalidRequest for a repair without a place."""
        loaded = self._task_model.loaded
        copy = replace(self._task_model, loaded=replace(loaded, model=surgery.copy_sharing_tensors(loaded.model)))
        self._repair(copy, candidate.kept)
        return cut(copy, candidate.kept, self._context.job.request.output.layout)

    def _reaches(self, ratio: float) -> bool:
        try:
            return bool(self.at(ratio))
        except WidthUnreachable:
            return False

    @cached_property
    def _buffers(self) -> dict[str, TensorShape]:
        """What a checkpoint holds beside parameters."""
        model = self._task_model.loaded.model
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        others = ((name, tensor) for name, tensor in model.state_dict().items() if name not in known)
        return {name: TensorShape(DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in others}

    def _make_room(self) -> None:
        """The repair `bias` adds parameters, which count."""
        if self._context.job.request.method.repair is Repair.bias:
            groups = locate_groups(self._context, self._task_model)
            with refusing_repairs():
                add_zero_biases(self._task_model.loaded.model, self._task_model.architecture, whole(groups))

    def _repair(self, copy: TaskModel, kept: dict[Site, Tensor]) -> None:
        if self._context.job.request.method.repair is not Repair.none:
            repair_model(self._context, copy, kept, self._moments, lambda done, total: self._tick())

    @cached_property
    def _moments(self) -> Mapping[str, Moments] | None:
        """What the repair needs of the dense model: taken once, for every candidate."""
        task_model, method = self._task_model, self._context.job.request.method.repair
        if self._path.moments is not None:
            return self._path.moments
        given = repair_input(self._context, task_model, whole(self.groups))
        return measure_moments(replace(given, on_progress=lambda done, total: self._tick()), method)
