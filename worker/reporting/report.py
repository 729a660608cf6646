"""The report of a job: what was asked, what was done, what it was done with, and how to use the outcome."""

from pathlib import Path
from typing import Any

from service.contract.options import Format, Layout
from service.contract.per_layer import has_own_widths
from service.contract.report import Report, Runtime
from service.contract.request import ModelSource, TaskWording
from service.contract.result import Result
from service.planning.checkpoint import read_checkpoint
from service.planning.plan import made_runtimes
from service.reports import html
from service.sources.access import Access
from worker.checkpoints import loading
from worker.data import prompts
from worker.data.prompts import Wording
from worker.data.provenance import digest_rows, digest_text, versions
from worker.evaluation.answers import MAX_CHANGED
from worker.reporting import artifacts, snippets
from worker.reporting.findings import Findings
from worker.reporting.model_card import card, licence_of
from worker.reporting.warnings import warnings
from worker.stages import method
from worker.stages.beside import Beside
from worker.stages.context import JobContext
from worker.stages.inputs import Sources
from worker.stages.task_model import TaskModel

# In a resolved task they are in storage, and stay there.
ROWS: Any = {"calibration": {"rows"}, "evaluation": {"rows"}, "evaluations": {"__all__": {"rows"}}}


def write(
    context: JobContext, sources: Sources, task_model: TaskModel, beside: Beside, result: Result, found: Findings
) -> None:
    """Write the report beside the checkpoint, for programs and for people, and the model card into it."""
    report = build(context, sources, task_model, beside, result, found)
    output = artifacts.directory(context)
    (output / "report.json").write_text(report.model_dump_json(indent=2))
    (output / "report.html").write_text(html.render(report))
    if Format.safetensors in context.job.request.output.formats:
        _write_cards(report, sources, output)


def _write_cards(report: Report, sources: Sources, output: Path) -> None:
    """One into each checkpoint that will be stored."""
    licence = licence_of(sources.model)
    (output / "model" / "README.md").write_text(card(report, licence))
    for point in report.result.curve:
        if point.artifact not in (None, "model"):
            (output / str(point.artifact) / "README.md").write_text(card(report, licence, point))


def build(
    context: JobContext, sources: Sources, task_model: TaskModel, beside: Beside, result: Result, found: Findings
) -> Report:
    """The report with its warnings. `task_model` is the cut one; `context` has the timings of the finished stages."""
    parts = (task_model, *beside.partners.values())
    report = Report(
        job_id=context.job.id,
        attempt=context.job.attempt,
        request=context.job.request,
        task=_as_run(task_model.wording),
        tasks={title: _as_run(each.wording) for title, each in beside.tasks(task_model).items()},
        family=task_model.loaded.family.model_type,
        result=result,
        options=dict(method.in_force(context)),
        calibration_examples=len(task_model.calibration.examples),
        shortened_prompts=task_model.calibration.shortened + sum(part.evaluation.shortened for part in parts),
        own_answers=task_model.own_answers,
        timings=list(context.timings),
        versions=versions(),
        digests=_digests(context, sources),
        lineage=sources.lineage,
        snippet=_snippet(context, result, task_model),
        runtimes=_runtimes(context, result),
        throughput=found.throughput,
        peak_memory_bytes=found.peak_memory_bytes,
        layers=found.layers,
        confusion=found.confusion,
        num_changed=len(found.changed),
        changed=found.changed[:MAX_CHANGED],
    )
    return report.model_copy(update={"warnings": warnings(report)})


def _as_run(wording: Wording) -> dict[str, Any]:
    task: TaskWording = prompts.as_run(wording)
    return task.model_dump(mode="json", exclude=ROWS)


def _digests(context: JobContext, sources: Sources) -> dict[str, str]:
    """sha256 of everything that went in."""
    rows = {"calibration": sources.calibration, "evaluation": sources.evaluation}
    for partner in sources.partners:
        title = partner.task.title
        rows |= {f"calibration of {title}": partner.calibration, f"evaluation of {title}": partner.evaluation}
    rows |= {f"evaluations {name}": others for name, others in sources.evaluations.items()}
    observed = zip(context.job.request.observe, sources.observed, strict=True)
    rows |= {f"observed {task.title}": others for task, others in observed}
    digests = sources.digests | {name: digest_rows(each) for name, each in rows.items()}
    return digests | {"template": digest_text(context.task.template or "")}


def _snippet(context: JobContext, result: Result, task_model: TaskModel) -> str:
    """Python that loads the checkpoint and asks it; of a union, the first of its tasks."""
    auto_class = loading.AUTO_CLASSES[task_model.loaded.family.kind].__name__
    own_widths = has_own_widths(result)
    return snippets.snippet(context.job.request, auto_class, own_widths, task_model.wording, task_model.padding)


def _runtimes(context: JobContext, result: Result) -> list[Runtime]:
    """Which runtimes load the checkpoint that was made."""
    directory = artifacts.checkpoint(context, "model")
    layout = Layout.per_layer if has_own_widths(result) else Layout.uniform
    access = Access(context.storage, context.job.tenant, True)
    checkpoint = read_checkpoint(ModelSource(uri=directory.resolve().as_uri()), access)
    return made_runtimes(checkpoint, context.job.request.method.units, layout)
