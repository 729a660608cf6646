"""Selects the units that a model keeps, repairs the model and cuts it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedUnit
from service.contract.options import Layout
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.dtypes import round_weights
from worker.checkpoints.verification import take_probe
from worker.data import batching
from worker.slimming import selection
from worker.slimming.repair.bias import RepairUnavailable
from worker.slimming.repair.inputs import CalibrationBatches, Progress, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.finite import NotFinite
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units import Group, Kept, Scores, UnitUnavailable, locate
from worker.stages.context import JobContext
from worker.stages.method import options, rules
from worker.stages.task_model import TaskModel

PROBE_EXAMPLES = 4  # whose logits the verification compares

IN_FLOAT32 = "give the model in float32, or one that does not overflow in its dtype"


def repair_model(
    context: JobContext,
    task_model: TaskModel,
    kept: Kept,
    moments: Mapping[str, Moments] | None,
    on_progress: Progress,
) -> None:
    """Repair the whole model for a cut to `kept` on the calibration rows, by the job's method.

    The weights are then rounded to the checkpoint's dtype, so that what is measured is what will be saved. Raises
    InvalidRequest where the family does not support the repair.
    """
    whole = replace(repair_input(context, task_model, kept), moments=moments, on_progress=on_progress)
    with refusing_repairs():
        repair(whole, context.job.request.method.repair)
    round_weights(task_model.loaded.model, task_model.loaded.dtype)


def repair_input(context: JobContext, task_model: TaskModel, kept: Kept) -> RepairInput:
    """The model and its calibration rows as a repair takes them, on the model's device."""
    model = task_model.loaded.model
    batches = [batch.to(model.device) for batch in task_model.calibration.batches]
    calibration = CalibrationBatches(batches, options(context).objective)
    return RepairInput(model, task_model.architecture, kept, calibration)


def all_units(groups: list[Group]) -> Kept:
    """All units of every group, as `select` gives those that stay."""
    return {group.site: torch.arange(group.count) for group in groups}


def locate_groups(context: JobContext, task_model: TaskModel) -> list[Group]:
    """The groups of the units that the job may remove. Raises UnsupportedUnit."""
    with refusing_units():
        return locate(task_model.loaded.model, task_model.architecture, context.job.request.method.units)


def choose(context: JobContext, groups: list[Group], scores: Scores, ratio: float) -> Kept:
    """The units that each group keeps, by the rules of the job. Raises WidthUnreachable."""
    request = context.job.request
    return selection.select(scores, groups, ratio, request.output.round_to, rules(request, request.output.layout))


def probed(context: JobContext, task_model: TaskModel, kept: Kept) -> TaskModel:
    """The whole task model with the logits of its longest evaluation rows where only the `kept` units contribute."""
    examples = sorted(task_model.evaluation.examples, key=lambda example: len(example.prompt))[-PROBE_EXAMPLES:]
    batch = batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)[-1]
    return replace(task_model, probe=take_probe(task_model.loaded, kept, batch.inputs))


def slim_task_model(task_model: TaskModel, kept: Kept, layout: Layout) -> TaskModel:
    """The task model with its model cut in place to `kept`, in a class that can load it."""
    return replace(task_model, loaded=make_slim(task_model.loaded, kept, layout))


@contextmanager
def refusing_units() -> Iterator[None]:
    """Raise UnsupportedUnit for a unit that the family or the criterion does not support.

    Raises InvalidModel where the measurements are not finite numbers.
    """
    try:
        yield
    except UnitUnavailable as error:
        raise UnsupportedUnit(str(error), param="method.units") from error
    except NotFinite as error:
        raise InvalidModel(f"{error} are not finite numbers: {IN_FLOAT32}", param="model.uri") from error


@contextmanager
def refusing_repairs() -> Iterator[None]:
    """Raise InvalidRequest for a repair that the family does not support, InvalidModel for sums that overflow."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        message = f"the repair cannot be fitted, because activations of the model overflow: {IN_FLOAT32}"
        raise InvalidModel(message, param="model.uri") from error
    except RepairUnavailable as error:
        raise InvalidRequest(f"{error}: choose another repair", param="method.repair") from error
