"""Quantised copies: measures the slim and the dense model in each precision, and stores and verifies the slim one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from service.contract.answers.job import Stage
from service.contract.answers.result import DenseSlim, MetricsPair, QuantisedModel
from service.contract.errors import ExportFailed
from service.storage.artifact_names import TASK_FILE, quantised_name
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.verification import Probe, probe_of
from worker.quantisation import files
from worker.quantisation.computing import computing_with
from worker.quantisation.layers import linear_modules
from worker.quantisation.precisions import PRECISIONS
from worker.quantisation.verification import Compared, verify
from worker.reporting import artifacts, quantised_snippets, task_file
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, having_role, own
from worker.stages.evaluation.measurements import shipped_tasks
from worker.stages.evaluation.quantisation import QuantisedSets, group_size_of, measure
from worker.stages.task_model import Measured, TaskModel, with_examples


@dataclass(frozen=True)
class QuantisedCopies:
    """The models in the precisions that a job asks for, and what the slim one answers in the one that a search for a
    floor judges, if any."""

    models: list[QuantisedModel]
    judged: Measured | None = None


def quantise(
    context: JobContext,
    sets: Sequence[EvaluationSet],
    tasks: Sequence[TaskModel],
    dense: Callable[[], LoadedModel],
    rows: Sequence[int],
) -> QuantisedCopies:
    """The models of a job in the precisions that it asks for. `sets` have the slim model.

    `tasks` are the same tasks with rows in the tokens of the dense model, of which `rows` are the evaluation rows that
    the slim model is reported on. Raises ExportFailed.
    """
    precisions = context.job.request.output.quantise
    if not precisions:
        return QuantisedCopies([])
    with context.stage(Stage.quantise):
        loaded = dense()
        sizes = {precision: group_size_of(context, precision, loaded) for precision in precisions}
        dense_sets = _with_dense_model(context, sets, tasks, loaded, rows)
        slim = [measure(context, sets, precision, size) for precision, size in sizes.items()]
        whole = [measure(context, dense_sets, precision, size) for precision, size in sizes.items()]
        models = [_store(context, *pair) for pair in zip(slim, whole, strict=True)]
    is_judged = len(slim) == 1 and context.job.request.target.keep_metric is not None
    return QuantisedCopies(models, slim[0].measured[own(slim[0].sets).key] if is_judged else None)


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


def _store(context: JobContext, slim: QuantisedSets, dense: QuantisedSets) -> QuantisedModel:
    """Write the quantised slim model from the verified checkpoint, verify it, and say what was measured.

    Raises ExportFailed.
    """
    precision, loaded, task_model = slim.precision, slim.loaded, own(slim.sets).task_model
    directory = artifacts.output_directory(context) / quantised_name(precision)
    _write(artifacts.checkpoint_directory(context), directory, slim)
    compared, tolerance = _verify(context, directory, slim)
    shipped = task_file.build(shipped_tasks(slim.sets, slim.measured), is_folded=False)
    (directory / TASK_FILE).write_text(shipped.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return QuantisedModel(
        precision=precision,
        directory=directory.name,
        group_size=slim.group_size,
        metrics=MetricsPair(dense=dense.metrics, slim=slim.metrics),
        bytes=DenseSlim(dense=dense.bytes, slim=slim.bytes),
        loader=compared.loader,
        max_abs_logit_difference=compared.weights,
        tolerance=tolerance,
        max_abs_logit_difference_with_activations=compared.activations,
        snippet=quantised_snippets.using(directory.name, precision, loaded, task_model.wording, task_model.padding),
        command=quantised_snippets.serving(directory.name, precision, loaded),
    )


def _write(checkpoint: Path, directory: Path, slim: QuantisedSets) -> None:
    """Write the quantised model from the checkpoint of the slim one. Raises ExportFailed."""
    loaded, storage = slim.loaded, PRECISIONS[slim.precision].storage
    modules = linear_modules(loaded.model, own(slim.sets).task_model.architecture)
    linear = [name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)]
    ignored = [name for name in linear if name not in modules]
    try:
        files.write(
            checkpoint, directory, slim.weights, storage, loaded.dtype, group_size=slim.group_size, ignored=ignored
        )
    except ValueError as error:
        raise ExportFailed(f"`{slim.precision}` cannot be stored: {error}") from error


def _verify(context: JobContext, directory: Path, slim: QuantisedSets) -> tuple[Compared, float]:
    """(what a fresh process has found, the tolerance of weights). Raises ExportFailed."""
    probe, rounding = _probes(slim)
    paths = [_written(context, name, each) for name, each in (("weights", probe), ("rounding", rounding)) if each]
    greatest = probe.logits.abs().max().item()
    return verify(directory, paths, greatest, lambda: context.progress.advance(0, 1, "checkpoints"))


def _probes(slim: QuantisedSets) -> tuple[Probe, Probe | None]:
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
