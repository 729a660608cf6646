"""Measures models on the tasks of a job with their weights in another precision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from service.contract.options import Precision
from service.contract.result import Metrics
from worker.checkpoints.loading import LoadedModel
from worker.evaluation.pooling import pooled_metrics
from worker.quantisation.computing import compute_with, computing_with
from worker.quantisation.precisions import PRECISIONS
from worker.quantisation.rounding import quantised_weights, tensor_bytes
from worker.quantisation.weights import QuantisedWeight
from worker.slimming.surgery import copy_sharing_tensors
from worker.stages.context import JobContext
from worker.stages.evaluation_sets import SLIMMED_FOR, EvaluationSet, Measurements, having_role, own
from worker.stages.measurements import measure_slim
from worker.stages.task_model import TaskModel, answer_all


@dataclass(frozen=True)
class QuantisedSets:
    """The evaluation sets of the tasks with a model, its quantised weights, and what was measured with these."""

    sets: Sequence[EvaluationSet]
    precision: Precision
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


def measure(context: JobContext, sets: Sequence[EvaluationSet], precision: Precision) -> QuantisedSets:
    """The tasks' sets measured with the weights of their model in a precision. The model stays as it is."""
    tasks = having_role(sets, *SLIMMED_FOR)
    loaded, bits = own(tasks).task_model.loaded, PRECISIONS[precision].activation_bits
    weights = _weights(context, [each.task_model for each in tasks], precision)
    with computing_with(loaded.model, weights, activation_bits=bits):
        return QuantisedSets(tasks, precision, weights, measure_slim(tasks, partial(answer_all, context)))


def judged_in_precision(context: JobContext, slim: TaskModel) -> TaskModel:
    """The model as a search for a floor judges it: a copy in the precision that the job asks for, if that is one."""
    if len(context.job.request.output.quantise) != 1:
        return slim
    [precision] = context.job.request.output.quantise
    model = copy_sharing_tensors(slim.loaded.model)
    compute_with(model, _weights(context, [slim], precision), PRECISIONS[precision].activation_bits)
    return replace(slim, loaded=replace(slim.loaded, model=model))


def _weights(context: JobContext, tasks: Sequence[TaskModel], precision: Precision) -> dict[str, QuantisedWeight]:
    """The quantised weights of the tasks' model, calibrated on the rows of all of them."""
    loaded = tasks[0].loaded
    batches = [batch.to(loaded.model.device) for task in tasks for batch in task.calibration.batches]
    on_layer = partial(context.progress.advance, unit="layers")
    return quantised_weights(loaded.model, tasks[0].architecture, precision, loaded.dtype, batches, on_layer)
