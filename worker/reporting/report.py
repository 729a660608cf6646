"""The report of a job: the request, the result, versions and digests, and how to use the checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from service.contract.answers.report import ReadTokens, Report, Runtime
from service.contract.answers.result import Result
from service.contract.options import Format
from service.contract.request.task import ModelSource, TaskWording
from service.exports.model import ExportedModel, exported_model
from service.exports.runtimes import with_exports
from service.models.families.family import ModelFamily
from service.models.families.per_layer import has_own_widths
from service.models.families.runtimes.sizes import SlimSizes
from service.models.families.runtimes.table import runtimes_after, runtimes_of_unequal_widths
from service.reports import html
from service.sources.access import Access
from service.sources.checkpoint import read_checkpoint
from service.sources.dimensions import ffn_widths, head_counts, head_size, num_layers
from service.sources.model_directory import ModelDirectory
from service.sources.model_files import CARD
from service.storage.artifact_names import MODEL, REPORT, REPORT_PAGE, SYNTHESIS, UNTRAINED
from service.storage.row_formats import json_line
from worker.data.provenance import digest_rows, digest_text, versions
from worker.data.wordings import Wording, as_run, written_in_template
from worker.evaluation.answers import MAX_CHANGED
from worker.reporting import artifacts, snippets
from worker.reporting.card_metadata import licence_of
from worker.reporting.findings import Findings
from worker.reporting.model_card import card, untrained_card
from worker.reporting.warnings.table import warnings
from worker.slimming.streaming.layers import is_streamed
from worker.stages import method
from worker.stages.context import JobContext
from worker.stages.evaluation.evaluation_sets import SLIMMED_FOR, EvaluationSet, Role, having_role, own
from worker.stages.inputs import Sources
from worker.stages.task_model import Synthesis, TaskModel

# Inline rows of a task. They are in storage, and the report does not repeat them.
ROWS: Any = {"calibration": {"rows"}, "evaluation": {"rows"}, "evaluations": {"__all__": {"rows"}}, "general": {"rows"}}


class RowNames(NamedTuple):
    """What the report calls the rows of an evaluation set; `{}` stands for the name of the set."""

    evaluation: str
    calibration: str | None = None


ROW_NAMES = {
    Role.task: RowNames("evaluation", "calibration"),
    Role.union_task: RowNames("evaluation of {}", "calibration of {}"),
    Role.further_rows: RowNames("evaluations {}"),
    Role.general: RowNames("evaluation of general rows", "general rows"),
    Role.observed_task: RowNames("observed {}"),
}


def write(
    context: JobContext, sources: Sources, sets: Sequence[EvaluationSet], result: Result, found: Findings
) -> None:
    """Write the report as JSON and as HTML beside the checkpoint, and the model card into the checkpoint."""
    report = build(context, sources, sets, result, found)
    output = artifacts.output_directory(context)
    (output / REPORT).write_text(report.model_dump_json(indent=2))
    (output / REPORT_PAGE).write_text(html.render(report))
    _write_synthesis(sets, output)
    if Format.safetensors in context.job.request.output.formats:
        _write_cards(report, sources, output)


def _write_synthesis(sets: Sequence[EvaluationSet], output: Path) -> None:
    """Write every text that a language model wrote, where the job asks for some."""
    found = _syntheses(having_role(sets, *SLIMMED_FOR))
    lines = [{"task": each.name, **values} for each, synthesis in found for values in synthesis.lines]
    if lines:
        (output / SYNTHESIS).write_bytes(b"".join(map(json_line, lines)))


def _syntheses(tasks: Sequence[EvaluationSet]) -> list[tuple[EvaluationSet, Synthesis]]:
    return [(each, each.task_model.synthesis) for each in tasks if each.task_model.synthesis is not None]


def _write_cards(report: Report, sources: Sources, output: Path) -> None:
    """Write a model card into each checkpoint that will be stored."""
    licence = licence_of(sources.model)
    (output / MODEL / CARD).write_text(card(report, licence))
    if report.result.recovery is not None:
        (output / UNTRAINED / CARD).write_text(untrained_card(report, licence))
    for point in report.result.curve:
        if point.artifact not in (None, MODEL):
            (output / str(point.artifact) / CARD).write_text(card(report, licence, point))


def build(
    context: JobContext, sources: Sources, sets: Sequence[EvaluationSet], result: Result, found: Findings
) -> Report:
    """The report with its warnings. The models of `sets` are cut; `context` has the timings of the past stages."""
    task_model, tasks = own(sets).task_model, having_role(sets, *SLIMMED_FOR)
    report = Report(
        job_id=context.job.id,
        attempt=context.job.attempt,
        request=context.job.request,
        task=_as_run(task_model.wording),
        tasks={each.name: _as_run(each.task_model.wording) for each in tasks} if len(tasks) > 1 else {},
        family=task_model.loaded.family.model_type,
        model_class=task_model.loaded.family.model_class,
        result=result,
        options=dict(method.applied_options(context)),
        calibration_examples=len(task_model.calibration.examples) + _num_held_out(tasks),
        shortened_prompts=task_model.calibration.shortened
        + sum(each.task_model.evaluation.shortened for each in tasks),
        own_answers=task_model.own_answers,
        synthesis={each.name: found.counts for each, found in _syntheses(tasks)},
        decoding=task_model.decoding,
        dequantised=sources.dequantised,
        stored_dtype=str(task_model.loaded.dtype).removeprefix("torch."),
        rounded_dtypes=task_model.loaded.rounded,
        computed_dtype=str(task_model.loaded.model.dtype).removeprefix("torch."),
        streamed=is_streamed(task_model.loaded.model),
        written_special_tokens=written_in_template(task_model.wording),
        read_tokens=_read_tokens(sets),
        timings=list(context.timings),
        versions=versions(),
        digests=_digests(context, sources),
        lineage=sources.lineage,
        snippet=_snippet(context, result, task_model),
        runtimes=with_exports(
            _runtimes(context, result, task_model.loaded.family), _exported(context, result, task_model)
        ),
        throughput=found.throughput,
        peak_memory_bytes=found.peak_memory_bytes,
        layers=found.layers,
        confusion=found.confusion,
        num_changed=len(found.changed),
        changed=found.changed[:MAX_CHANGED],
    )
    return report.model_copy(update={"warnings": warnings(report)})


def _read_tokens(sets: Sequence[EvaluationSet]) -> ReadTokens | None:
    examples = [each for of in having_role(sets, *SLIMMED_FOR) for each in of.task_model.evaluation.examples]
    if any(each.dense_tokens is None for each in examples):
        return None
    pairs = [(each.dense_tokens or 0, len(each.prompt)) for each in examples]
    return ReadTokens(
        rows=len(pairs),
        longer_rows=sum(slim > dense for dense, slim in pairs),
        dense=sum(dense for dense, _ in pairs),
        slim=sum(slim for _, slim in pairs),
    )


def _num_held_out(tasks: Sequence[EvaluationSet]) -> int:
    """Calibration rows that only a recovery has looked at."""
    return sum(len(each.task_model.held_out.examples) for each in tasks if each.task_model.held_out is not None)


def _as_run(wording: Wording) -> dict[str, Any]:
    """The task with the fields of its preset and its defaults, without inline rows."""
    task: TaskWording = as_run(wording)
    return task.model_dump(mode="json", exclude=ROWS)


def _digests(context: JobContext, sources: Sources) -> dict[str, str]:
    """The SHA-256 of every input: model, adapter, rows and template."""
    digests = dict(sources.digests)
    for each in sources.rows:
        names = ROW_NAMES[each.role]
        digests[names.evaluation.format(each.name)] = digest_rows(each.evaluation)
        if names.calibration is not None:
            digests[names.calibration.format(each.name)] = digest_rows(each.calibration)
    template = context.task.template  # a chat template is a file of the model
    return digests | ({} if template is None else {"template": digest_text(template)})


def _snippet(context: JobContext, result: Result, task_model: TaskModel) -> str:
    """The Python snippet that loads the checkpoint and runs the task, or the first task of a union, on one row."""
    auto_class = task_model.loaded.family.auto_class
    own_widths = has_own_widths(result)
    wording, padding = task_model.wording, task_model.padding
    if result.exports and not {Format.safetensors, Format.indices} & set(context.job.request.output.formats):
        return snippets.prompt_snippet(wording, result.exports)
    return snippets.snippet(context.job.request, auto_class, own_widths, wording, padding)


def _exported(context: JobContext, result: Result, task_model: TaskModel) -> ExportedModel:
    """The slim model, as the formats of other runtimes see it."""
    loaded, request = task_model.loaded, context.job.request
    model = exported_model(request, loaded.family, loaded.model.config.to_dict())
    return replace(model, own_widths=has_own_widths(result))


def _runtimes(context: JobContext, result: Result, family: ModelFamily) -> list[Runtime]:
    """The runtimes, and whether each of them loads the checkpoint."""
    if has_own_widths(result):
        return runtimes_of_unequal_widths(family, context.job.request.method.units)
    directory = artifacts.checkpoint_directory(context)
    access = Access(context.storage, context.job.tenant, local_paths=True)
    checkpoint = read_checkpoint(ModelDirectory.of(ModelSource(uri=directory.resolve().as_uri()), access))
    return runtimes_after(
        SlimSizes(
            checkpoint.family.model_type,
            context.job.request.method.units,
            widths=ffn_widths(checkpoint),
            heads=head_counts(checkpoint, checkpoint.last_stack)[0],
            head_size=head_size(checkpoint, checkpoint.last_stack),
            layers=num_layers(checkpoint, checkpoint.last_stack),
            hidden_size=checkpoint.number(checkpoint.names.hidden_size, checkpoint.last_stack),
            config=checkpoint.config,
            kind=checkpoint.family.kind,
        )
    )
