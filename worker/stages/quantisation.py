"""Quantises the slim and the dense model, measures both on the task, and stores and verifies the slim one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from service.contract.errors import ExportFailed
from service.contract.job import Stage
from service.contract.options import Precision
from service.contract.result import DenseSlim, Metrics, MetricsPair, QuantisedModel
from service.storage.artifact_names import TASK_FILE, quantised_name
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.verification import Probe, probe_of
from worker.evaluation.pooling import pooled_metrics
from worker.quantisation import files
from worker.quantisation.computing import computing_with
from worker.quantisation.layers import linear_modules
from worker.quantisation.precisions import PRECISIONS
from worker.quantisation.rounding import group_size_of, quantised_weights, tensor_bytes
from worker.quantisation.verification import verify
from worker.quantisation.weights import QuantisedWeight
from worker.reporting import artifacts, quantised_snippets, task_file
from worker.stages.context import JobContext
from worker.stages.evaluation_sets import SLIMMED_FOR, EvaluationSet, Measurements, having_role, own
from worker.stages.measurements import measure_slim, shipped_tasks
from worker.stages.task_model import TaskModel, answer_all, with_examples


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


def quantise(
    context: JobContext,
    sets: Sequence[EvaluationSet],
    tasks: Sequence[TaskModel],
    dense: Callable[[], LoadedModel],
    rows: Sequence[int],
) -> list[QuantisedModel]:
    """The models of a job in the precisions that it asks for. `sets` have the slim model.

    `tasks` are the same tasks with rows in the tokens of the dense model, of which `rows` are the evaluation rows that
    the slim model is reported on. Raises ExportFailed.
    """
    precisions = context.job.request.output.quantise
    if not precisions:
        return []
    with context.stage(Stage.quantise):
        slim = [measure(context, sets, precision) for precision in precisions]
        dense_sets = _with_dense_model(context, sets, tasks, dense(), rows)
        return [store(context, each, measure(context, dense_sets, each.precision)) for each in slim]


def _with_dense_model(
    context: JobContext,
    sets: Sequence[EvaluationSet],
    tasks: Sequence[TaskModel],
    dense: LoadedModel,
    rows: Sequence[int],
) -> list[EvaluationSet]:
    """The sets of the tasks with the dense model in place of the slim one."""
    own_task, *others = (replace(task, loaded=dense) for task in tasks)
    examples = [own_task.evaluation.examples[row] for row in rows]
    reported = with_examples(context, own_task, own_task.evaluation, examples)
    models = [replace(own_task, evaluation=reported), *others]
    return [
        replace(each, task_model=model) for each, model in zip(having_role(sets, *SLIMMED_FOR), models, strict=True)
    ]


def measure(context: JobContext, sets: Sequence[EvaluationSet], precision: Precision) -> QuantisedSets:
    """The tasks' sets measured with the weights of their model in a precision. The model stays as it is."""
    tasks = having_role(sets, *SLIMMED_FOR)
    task_model = own(tasks).task_model
    loaded, device = task_model.loaded, task_model.loaded.model.device
    batches = [batch.to(device) for each in tasks for batch in each.task_model.calibration.batches]
    weights = quantised_weights(
        loaded.model,
        task_model.architecture,
        precision,
        loaded.dtype,
        batches,
        lambda done, total: context.progress.advance(done, total, "layers"),
    )
    with computing(loaded.model, precision, weights):
        return QuantisedSets(tasks, precision, weights, measure_slim(tasks, partial(answer_all, context)))


def computing(
    model: nn.Module, precision: Precision, weights: Mapping[str, QuantisedWeight]
) -> AbstractContextManager[None]:
    """Within the context the model computes in the precision, with weights and activations rounded."""
    return computing_with(model, weights, activation_bits=PRECISIONS[precision].activation_bits)


def store(context: JobContext, slim: QuantisedSets, dense: QuantisedSets) -> QuantisedModel:
    """Write the quantised slim model from the verified checkpoint, verify it, and say what was measured.

    Raises ExportFailed.
    """
    precision, loaded = slim.precision, slim.loaded
    checkpoint, traits = artifacts.checkpoint_directory(context), PRECISIONS[precision]
    directory = artifacts.output_directory(context) / quantised_name(precision)
    modules = linear_modules(loaded.model, own(slim.sets).task_model.architecture)
    others = [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)]
    size = group_size_of(precision, modules)
    ignored = [name for name in others if name not in modules]
    try:
        files.write(
            checkpoint, directory, slim.weights, traits.storage, loaded.dtype, group_size=size, ignored=ignored
        )
    except ValueError as error:
        raise ExportFailed(f"`{precision}` cannot be stored: {error}") from error
    probe, rounding = _probes(context, slim)
    paths = [_written(context, name, each) for name, each in (("weights", probe), ("rounding", rounding)) if each]
    compared, tolerance = verify(
        directory,
        paths[0],
        paths[1] if rounding else None,
        probe.logits.abs().max().item(),
        lambda: context.progress.advance(0, 1, "checkpoints"),
    )
    shipped = task_file.build(shipped_tasks(slim.sets, slim.measured), is_folded=False)
    (directory / TASK_FILE).write_text(shipped.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return QuantisedModel(
        precision=precision,
        directory=directory.name,
        group_size=size,
        metrics=MetricsPair(dense=dense.metrics, slim=slim.metrics),
        bytes=DenseSlim(dense=dense.bytes, slim=slim.bytes),
        loader=compared.loader,
        max_abs_logit_difference=compared.weights,
        tolerance=tolerance,
        max_abs_logit_difference_with_activations=compared.activations,
        snippet=quantised_snippets.loading(directory.name, precision, loaded),
        command=quantised_snippets.serving(directory.name, precision, loaded),
    )


def _probes(context: JobContext, slim: QuantisedSets) -> tuple[Probe, Probe | None]:
    """The logits with weights rounded, and with activations rounded as well where the precision does that."""
    task_model, traits = own(slim.sets).task_model, PRECISIONS[slim.precision]
    assert task_model.probe is not None, "the model is cut"
    inputs = {name: value.to(slim.loaded.model.device) for name, value in task_model.probe.inputs.items()}

    def probe(bits: int | None) -> Probe:
        with computing_with(slim.loaded.model, slim.weights, activation_bits=bits, dtype=torch.float32):
            return probe_of(slim.loaded, inputs)

    return probe(None), probe(traits.activation_bits) if traits.activation_bits else None


def _written(context: JobContext, name: str, probe: Probe) -> Path:
    path = context.scratch / f"quantised-{name}.safetensors"
    probe.write(path)
    return path
