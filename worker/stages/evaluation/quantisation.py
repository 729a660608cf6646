"""Measures models on the tasks of a job with their weights in another precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from service.contract.answers.result import Metrics
from service.contract.options import Precision
from service.exports.precisions import planned_precisions
from worker.checkpoints.loading import LoadedModel
from worker.evaluation.pooling import pooled_metrics
from worker.quantisation.computing import compute_with, computing_with
from worker.quantisation.layers import linear_modules
from worker.quantisation.precisions import PRECISIONS
from worker.quantisation.rounding import quantised_weights, tensor_bytes
from worker.quantisation.weights import QuantisedWeight
from worker.slimming.architectures import architecture_of
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, Measurements, having_role, own
from worker.stages.evaluation.measurements import measure_slim
from worker.stages.task_model import TaskModel, answer_all


@dataclass(frozen=True)
class QuantisedSets:
    """The evaluation sets of the tasks with a model, its quantised weights, and what was measured with these."""

    sets: Sequence[EvaluationSet]
    precision: Precision
    group_size: int | None
    weights: Mapping[str, QuantisedWeight]
    measured: Measurements

    @property
    def loaded(self) -> LoadedModel:
        """The model, whose own weights are not quantised."""
        return own(self.sets).task_model.loaded

    @property
    def metrics(self) -> Metrics:
        """Over the rows of all tasks."""
        return pooled_metrics([self.measured[each.key].metrics for each in self.sets])

    @property
    def bytes(self) -> int:
        """Of the tensors that are stored of the quantised model."""
        return tensor_bytes(self.loaded.model, self.weights, PRECISIONS[self.precision], self.loaded.dtype)


def group_size_of(context: JobContext, precision: Precision, dense: LoadedModel) -> int | None:
    """The weights of a row that share a scale, in the dense and in the slim model; None where all of a row do."""
    modules = linear_modules(dense.model, architecture_of(dense.model)).values()
    rows, config = [module.in_features for module in modules], dense.model.config.to_dict()
    planned = planned_precisions(context.job.request, dense.family, config, rows)
    return next(each.group_size for each in planned if each.precision is precision)


def measure(
    context: JobContext, sets: Sequence[EvaluationSet], precision: Precision, group_size: int | None
) -> QuantisedSets:
    """The tasks' sets measured with the weights of their model in a precision. The model stays as it is."""
    tasks = having_role(sets, *SLIMMED_FOR)
    loaded, bits = own(tasks).task_model.loaded, PRECISIONS[precision].activation_bits
    weights = _weights(context, [each.task_model for each in tasks], precision, group_size)
    with computing_with(loaded.model, weights, activation_bits=bits):
        return QuantisedSets(tasks, precision, group_size, weights, measure_slim(tasks, partial(answer_all, context)))


def judged_in_precision(context: JobContext, slim: TaskModel, dense: LoadedModel) -> TaskModel:
    """The model as a search for a floor judges it: a copy in the precision that the job asks for, if that is one."""
    if len(context.job.request.output.quantise) != 1:
        return slim
    [precision] = context.job.request.output.quantise
    model = copy_sharing_tensors(slim.loaded.model)
    size = group_size_of(context, precision, dense)
    compute_with(model, _weights(context, [slim], precision, size), PRECISIONS[precision].activation_bits)
    return replace(slim, loaded=replace(slim.loaded, model=model))


def _weights(
    context: JobContext, tasks: Sequence[TaskModel], precision: Precision, group_size: int | None
) -> dict[str, QuantisedWeight]:
    """The quantised weights of the tasks' model, calibrated on the rows of all of them."""
    loaded = tasks[0].loaded
    batches = [batch.to(loaded.model.device) for task in tasks for batch in task.calibration.batches]
    on_layer = partial(context.progress.advance, unit="layers")
    return quantised_weights(
        loaded.model, tasks[0].architecture, precision, group_size, loaded.dtype, batches, on_layer
    )
