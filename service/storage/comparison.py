"""Compares jobs of one model and task by their reports: size or latency against the metric, and the frontier."""

import json
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, TypeVar

from pydantic import ValidationError

from service.contract.answers.comparison import ComparedModel, Comparison, Figures, LatencyInput, Size
from service.contract.answers.report import Report
from service.contract.errors import NotComparable, NotFound
from service.contract.options import Format
from service.contract.request.task import TaskWording
from service.storage.artifact_names import MODEL
from service.storage.manifests import committed_report
from service.storage.object_store import Storage

TITLES = {"name", "preset"}  # fields of a wording that change no answer
OF_POINT = ("artifact", "ratio", "parameters", "bytes", "latency_ms", "examples", "metric")  # of a sweep

Model = TypeVar("Model", bound=Figures)


def compare_jobs(storage: Storage, tenant: str, job_ids: Sequence[str]) -> Comparison:
    """The slim models of jobs that have succeeded. Raises NotComparable, NotFound for a job without files."""
    return compare([_report(storage, tenant, job_id) for job_id in job_ids])


def _report(storage: Storage, tenant: str, job_id: str) -> Report:
    try:
        report = committed_report(storage, tenant, job_id)
    except ValidationError as error:
        message = f"the report of job {job_id} was written by another version: slim the model again"
        raise NotComparable(message, param="jobs") from error
    if report is None:
        raise NotFound(f"job {job_id} has no files any more")
    return report


def compare(reports: Sequence[Report]) -> Comparison:
    """The slim models of the jobs, in the order of the reports. Raises NotComparable."""
    first = reports[0]
    for other in reports:
        _check_comparable(first, other)
    latency = _shared_latency_input(reports)
    sizes = [size for size in Size if size is not Size.latency_ms or latency is not None]
    models = [model for report in reports for model in _models(report)]
    dense = _dense(reports)
    measured: list[Figures] = [dense, *models]
    return Comparison(
        model=first.request.model,
        task=first.request.title,
        metric=first.result.metrics.slim.metric,
        judged_by=first.result.metrics.slim.judged_by,
        latency=latency,
        dense=_with_frontier(dense, measured, sizes),
        models=[_with_frontier(model, measured, sizes) for model in models],
    )


# --- whether jobs are comparable -----------------------------------------------------------------------------------


def _check_comparable(first: Report, other: Report) -> None:
    """Raises NotComparable where the two jobs have another model, adapter, task or evaluation rows."""
    for report in (first, other):
        if not {"model", "evaluation"} <= report.digests.keys():
            message = f"the report of job {report.job_id} does not name its model and rows: slim the model again"
            raise NotComparable(message, param="jobs")
    pair = f"jobs {first.job_id} and {other.job_id}"
    for part in ("model", "adapter"):
        if first.digests.get(part) != other.digests.get(part):
            raise NotComparable(f"{pair} have different {part}s: give jobs of one model", param="jobs")
    if _wordings(first) != _wordings(other) or _judge(first) != _judge(other):
        raise NotComparable(f"{pair} have different tasks or metrics: give jobs of one task", param="jobs")
    if _row_digests(first) != _row_digests(other):
        message = f"{pair} are judged on different rows: give jobs with the same `task.evaluation`"
        raise NotComparable(message, param="jobs")


def _wordings(report: Report) -> str:
    """The tasks without their titles, as text."""
    names = TaskWording.model_fields.keys() - TITLES
    tasks: list[dict[str, Any]] = list(report.tasks.values()) or [report.task]
    return json.dumps([{name: task.get(name) for name in sorted(names)} for task in tasks])


def _judge(report: Report) -> tuple[object, object]:
    metrics = report.result.metrics.slim
    return metrics.metric, metrics.judged_by


def _row_digests(report: Report) -> list[str | None]:
    """The digests of the evaluation rows of each task."""
    names = ["evaluation", *(f"evaluation of {title}" for title in list(report.tasks)[1:])]
    return [report.digests.get(name) for name in names]


def _shared_latency_input(reports: Sequence[Report]) -> LatencyInput | None:
    """What all latencies were measured on; None where the jobs differ."""
    inputs = {(found.batch, found.tokens, found.device) for found in (each.result.latency_ms for each in reports)}
    if len(inputs) > 1:
        return None
    ((batch, tokens, device),) = inputs
    return LatencyInput(batch=batch, tokens=tokens, device=device)


# --- the models ----------------------------------------------------------------------------------------------------


def _models(report: Report) -> Iterator[ComparedModel]:
    """The slim model of the job, and the further models of a sweep, all judged on all evaluation rows."""
    request, result, metrics = report.request, report.result, report.result.metrics.slim
    own = ComparedModel(
        job_id=report.job_id,
        artifact=MODEL if Format.safetensors in request.output.formats else None,
        ratio=result.ratio,
        parameters=result.parameters.slim,
        bytes=result.bytes.slim,
        latency_ms=result.latency_ms.slim,
        examples=metrics.examples,
        metric=metrics.value,
        units=request.method.units,
        layout=request.output.layout,
        repair=request.method.repair,
        recovery=request.recovery and request.recovery.method,
        tags=request.tags,
    )
    yield own
    for point in result.curve if request.target.sweep else ():
        if point.parameters != own.parameters and point.metric and point.examples:
            yield own.model_copy(update={name: getattr(point, name) for name in OF_POINT})


def _dense(reports: Sequence[Report]) -> Figures:
    """The dense model: its metric in the first job with the most rows, the median of its latencies."""
    judged = max((report.result.metrics.dense for report in reports), key=lambda metrics: metrics.examples)
    result = reports[0].result
    return Figures(
        parameters=result.parameters.dense,
        bytes=result.bytes.dense,
        latency_ms=median(report.result.latency_ms.dense for report in reports),
        examples=judged.examples,
        metric=judged.value,
    )


# --- the frontier --------------------------------------------------------------------------------------------------


def _with_frontier(model: Model, models: Sequence[Figures], sizes: Sequence[Size]) -> Model:
    """The model with the sizes by which it is on the frontier of `models`."""
    return model.model_copy(update={"frontier": [size for size in sizes if _is_on_frontier(model, models, size)]})


def _is_on_frontier(model: Figures, models: Sequence[Figures], size: Size) -> bool:
    """Whether the model has been measured by `size` and no other is better in one figure and as good in the other."""
    own = getattr(model, size)
    if own is None:
        return False
    others = [(getattr(each, size), each.metric.value) for each in models]
    metric = model.metric.value
    return not any(
        other is not None and other <= own and value >= metric and (other < own or value > metric)
        for other, value in others
    )
