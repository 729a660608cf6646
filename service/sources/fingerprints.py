"""Fingerprints: digests of everything that the measurements of a request depend on, with marks in place of contents.

A worker stores which score sets serve a fingerprint, so that a plan can say whether they exist without reading a model.
The worker itself uses digests of the contents (`worker.stages.scores.cache`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.criteria import CRITERIA, Criterion
from service.contract.options import TaskKind
from service.contract.request.job_request import JobRequest
from service.contract.request.method import Method, objective_of
from service.contract.request.presets import resolve
from service.contract.request.task import DataSource, ModelSource, Task, TaskWording
from service.sources.access import DATASET, HUB, RETRY_SECONDS, Access
from service.sources.hub import HubFiles
from service.sources.job_checkpoints import JOB
from service.sources.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, GGUF, is_wanted
from service.sources.readers import LOCAL, file_mark, file_marks, scheme_of
from service.storage.inline_rows import json_lines
from service.storage.keys import dataset_id_of, dataset_key

MAX_READ_BYTES = 16 * 2**20  # a larger data set is named by its size and ETag
AFTER_SCORING = {
    "repair",
    "merge",
    "merged_router",
    "controls",
    "union",
    "keep_vocabulary",
    "shards",
}  # fields of the method that do not change the scores
SELECTING = {"scope", "normalisation", "protect_first", "protect_last"}  # they decide what a step removes
SOURCES = ("calibration", "evaluation", "evaluations", "general", "texts")  # fields of a task that name rows


def scoring(method: Method, kind: TaskKind | None) -> dict[str, Any]:
    """The fields of a method that change its unit scores. A field that this module does not name is one of them."""
    ignored = AFTER_SCORING | (SELECTING if method.steps == 1 else set())
    if method.criterion is not Criterion.random:
        ignored |= {"seed"}  # only the controls of the other criteria use it
    complete = method.model_copy(update={"units": sorted(method.scored_units), "objective": objective_of(method, kind)})
    return complete.model_dump(mode="json", exclude=ignored)


def wording(task: TaskWording) -> dict[str, Any]:
    """The fields of a task that change what a model reads."""
    return task.model_dump(mode="json", include=set(TaskWording.model_fields) - {"name", "preset", "metric"})


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of the two measurements on the dense model."""

    units: str  # the unit scores
    rows: str  # the answers to all evaluation rows


def fingerprints(request: JobRequest, access: Access) -> Fingerprints:
    """The fingerprints of a checked request. Raises NotFound, ForbiddenPath, StorageUnavailable."""
    tasks, output = [resolve(task) for task in request.slimmed_for], request.output
    both = {
        "model": _model_marks(request.model, access),
        "adapter": _adapter_marks(request.model, access),
        "tasks": [_task_mark(task, access) for task in tasks],
    }
    units = {
        "method": scoring(request.method, tasks[0].kind),
        "general": _general_mark(request, access) if _scores_general_rows(request) else None,
        "path": [request.target.model_dump(), output.round_to, output.layout] if request.method.steps > 1 else None,
    }
    rows = {
        "evaluation": [_evaluation_marks(task, access) for task in tasks],
        "general": _general_mark(request, access),
        "observe": [wording(task) | _rows_mark(task.evaluation, access) for task in map(resolve, request.observe)],
    }
    return Fingerprints(units=digest(both | units), rows=digest(both | rows))


def _scores_general_rows(request: JobRequest) -> bool:
    """Whether the unit scores depend on general rows."""
    return CRITERIA[request.method.criterion].needs_general or request.method.general_weight > 0


def _general_mark(request: JobRequest, access: Access) -> dict[str, Any] | None:
    if request.general is None:
        return None
    task = resolve(request.general.task)
    return _task_mark(task, access) | {"evaluation": _evaluation_marks(task, access)}


def _evaluation_marks(task: Task, access: Access) -> dict[str, Any]:
    """Name -> mark of the evaluation rows that are not set aside from the calibration rows."""
    named = task.evaluations | ({"": task.evaluation} if task.evaluation else {})  # no set is called ""
    return {name: _rows_mark(source, access) for name, source in named.items()}


def _task_mark(task: Task, access: Access) -> dict[str, Any]:
    return {
        "task": wording(task) | task.model_dump(mode="json", exclude={*TaskWording.model_fields, *SOURCES}),
        "rows": _rows_mark(task.calibration, access),
        "writer": _writer_marks(task, access),
        "is_split": task.evaluation is None,  # a part of the calibration rows is set aside
    }


def _writer_marks(task: Task, access: Access) -> list[dict[str, str] | None] | None:
    """The marks of the model that the task's synthesis names, and of its adapter."""
    source = task.synthesis.model if task.synthesis else None
    return None if source is None else [_model_marks(source, access), _adapter_marks(source, access)]


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _model_marks(source: ModelSource, access: Access) -> dict[str, str]:
    if scheme_of(source.uri) == HUB:
        return {"commit": HubFiles.of(source).commit()}
    if source.uri.endswith(GGUF):
        return {"gguf": _mark(source.uri, access)}
    return {name: mark for name, mark in _marks(source.uri, access).items() if is_wanted(name)}


def _adapter_marks(source: ModelSource, access: Access) -> dict[str, str] | None:
    uri = source.adapter_uri
    if uri is None:
        return None
    if scheme_of(uri) == HUB:
        return {"commit": HubFiles.of(ModelSource(uri=uri)).commit()}
    marks = _marks(uri, access)
    return {name: marks[name] for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}


def _marks(uri: str, access: Access) -> dict[str, str]:
    if scheme_of(uri) == JOB:
        return {name: file.sha256 for name, file in access.job_model(uri).files.items()}
    return file_marks(_followed(uri, access), retry_seconds=RETRY_SECONDS)


def _mark(uri: str, access: Access) -> str:
    return file_mark(_followed(uri, access), retry_seconds=RETRY_SECONDS)


def _followed(uri: str, access: Access) -> str:
    """The URI of an allowed local path with symbolic links resolved; any other URI unchanged."""
    return access.path(uri).as_uri() if scheme_of(uri) == LOCAL else uri


def _rows_mark(source: DataSource, access: Access) -> dict[str, Any]:
    drawn = source.model_dump(mode="json", exclude={"uri", "rows"})
    if source.rows is not None:
        return drawn | {"content": hashlib.sha256(json_lines(source.rows)).hexdigest()}
    uri = source.uri or ""
    if scheme_of(uri) != DATASET:
        return drawn | {"uri": uri, "mark": _mark(uri, access)}
    key = dataset_key(access.tenant, dataset_id_of(uri))
    found = access.storage.stat(key)
    if found.size > MAX_READ_BYTES:
        return drawn | {"uri": uri, "size": found.size, "etag": found.etag}
    return drawn | {"content": hashlib.sha256(access.storage.get_bytes(key)).hexdigest()}
