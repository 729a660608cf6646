"""Selects the units that a model keeps, repairs the model and cuts it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedUnit
from service.contract.options import Layout, Unit
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.dtypes import round_weights
from worker.checkpoints.verification import take_mapped_probe, take_probe, with_texts
from worker.checkpoints.vocabularies import cut_vocabulary
from worker.data import batching
from worker.slimming import selection
from worker.slimming.repair.bias import RepairUnavailable
from worker.slimming.repair.inputs import CalibrationBatches, Progress, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.finite import NotFinite
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.slimming.surgery.vocabulary import without_vocabulary
from worker.slimming.units.groups import VOCABULARY, Group, Kept, Scores, UnitUnavailable
from worker.slimming.units.locating import locate
from worker.stages.context import JobContext
from worker.stages.method import options, rules
from worker.stages.task_model import TaskModel
from worker.stages.vocabulary import with_loaded

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
    model, kept = task_model.loaded.model, without_vocabulary(kept)
    batches = [batch.to(model.device) for batch in task_model.calibration.batches]
    calibration = CalibrationBatches(batches, options(context).objective)
    return RepairInput(model, task_model.architecture, kept, calibration)


def all_units(groups: list[Group]) -> Kept:
    """All units of every group, as `select` gives those that stay."""
    return {group.site: torch.arange(group.count) for group in groups}


def locate_groups(context: JobContext, task_model: TaskModel) -> list[Group]:
    """The groups of the units that the job may remove. Raises UnsupportedUnit."""
    return _located(task_model, context.job.request.method.units)


def scored_groups(context: JobContext, task_model: TaskModel) -> list[Group]:
    """Those groups that a criterion scores. Raises UnsupportedUnit."""
    return _located(task_model, context.job.request.method.scored_units)


def _located(task_model: TaskModel, units: list[Unit]) -> list[Group]:
    with refusing_units():
        return locate(task_model.loaded.model, task_model.architecture, units)


def choose(context: JobContext, groups: list[Group], scores: Scores, ratio: float) -> Kept:
    """The units that each group keeps, by the rules of the job. Raises WidthUnreachable."""
    request = context.job.request
    return selection.select(scores, groups, ratio, request.output.round_to, rules(request, request.output.layout))


def cut_task_model(context: JobContext, task_model: TaskModel, kept: Kept, layout: Layout) -> TaskModel:
    """The task model with its model cut in place to `kept`, and the logits that this has to give as its probe.

    The logits are those of the whole model on its longest evaluation rows, where only the `kept` units contribute.
    """
    if VOCABULARY not in kept:
        probe = take_probe(task_model.loaded, kept, _probe_inputs(context, task_model))
        return slim_task_model(context, replace(task_model, probe=probe), kept, layout)
    # The rows of the dense model are needed until its logits are known; all other tensors are shared.
    dense = replace(task_model.loaded, model=copy_sharing_tensors(task_model.loaded.model))
    narrow = with_loaded(context, task_model, cut_vocabulary(task_model.loaded, kept[VOCABULARY]))
    kept = without_vocabulary(kept)
    probe = take_mapped_probe(dense, kept, _probe_inputs(context, narrow), narrow.loaded)
    texts = task_model.calibration.texts
    return slim_task_model(context, replace(narrow, probe=with_texts(probe, texts, narrow.loaded)), kept, layout)


def _probe_inputs(context: JobContext, task_model: TaskModel) -> Mapping[str, Tensor]:
    examples = sorted(task_model.evaluation.examples, key=lambda example: len(example.prompt))[-PROBE_EXAMPLES:]
    return batching.batches(examples, task_model.padding, context.settings.tokens_per_batch)[-1].inputs


def slim_task_model(context: JobContext, task_model: TaskModel, kept: Kept, layout: Layout) -> TaskModel:
    """The task model with its model cut in place to `kept`, in a class that can load it."""
    return with_loaded(context, task_model, make_slim(task_model.loaded, kept, layout))


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
