"""Chooses the units that stay, cuts the rest and repairs the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from service.contract.errors import InvalidRequest, UnsupportedUnit
from service.contract.options import Layout
from worker.checkpoints import cutting
from worker.slimming import selection
from worker.slimming.repair import repairs as repairs
from worker.slimming.repair.bias import RepairUnavailable
from worker.slimming.scoring.iterative import Scores
from worker.slimming.scoring.second_moments import Moments, Rows
from worker.slimming.units import Group, Site, UnitUnavailable, locate
from worker.stages.context import JobContext
from worker.stages.method import options, rules
from worker.stages.task_model import TaskModel


def repair_model(
    context: JobContext,
    task_model: TaskModel,
    kept: dict[Site, Tensor],
    moments: dict[str, Moments] | None,
    on_progress: Callable[[int, int], None],
) -> None:
    """Fit what stays to what goes, on the calibration rows, whose `moments` may be known.

    Raises InvalidRequest where the family has no place for the repair.
    """
    model, method, rows = task_model.loaded.model, context.job.request.method.repair, rows_to_fit(context, task_model)
    if moments:
        repairs.repair_again(model, task_model.architecture, kept, rows, method, moments, on_progress)
    else:
        with refusing_repairs():
            repairs.repair(model, task_model.architecture, kept, rows, method, on_progress)


def rows_to_fit(context: JobContext, task_model: TaskModel) -> Rows:
    """The calibration rows, on the model's device, and what tells which of their tokens matter."""
    batches = [batch.to(task_model.loaded.model.device) for batch in task_model.calibration.batches]
    return Rows(batches, options(context).objective)


def whole(groups: list[Group]) -> dict[Site, Tensor]:
    """All units of every group."""
    return {group.site: torch.arange(group.count) for group in groups}


def locate_groups(context: JobContext, task_model: TaskModel) -> list[Group]:
    """The groups of the units that the job chooses. Raises UnsupportedUnit."""
    with refusing_units():
        return locate(task_model.loaded.model, task_model.architecture, context.job.request.method.units)


def choose(context: JobContext, groups: list[Group], scores: Scores, ratio: float) -> dict[Site, Tensor]:
    """What stays of each group, by the job's rules. Raises WidthUnreachable."""
    request = context.job.request
    return selection.select(scores, groups, ratio, request.output.round_to, rules(request, request.output.layout))


def cut(task_model: TaskModel, kept: dict[Site, Tensor], layout: Layout) -> TaskModel:
    """The subject with its model cut, as the class that can hold it."""
    return replace(task_model, loaded=cutting.cut(task_model.loaded, kept, layout))


@contextmanager
def refusing_units() -> Iterator[None]:
    """Raise what a family cannot give up as UnsupportedUnit."""
    try:
        yield
    except UnitUnavailable as error:
        raise UnsupportedUnit(str(error), param="method.units") from error


@contextmanager
def refusing_repairs() -> Iterator[None]:
    """Raise a repair that a family has no place for as InvalidRequest."""
    try:
        yield
    except RepairUnavailable as error:
        raise InvalidRequest(f"{error}: choose another repair", param="method.repair") from error
