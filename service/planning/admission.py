"""What can be refused before any work: everything that follows from the request, its rows and a model's small files.

A model on the hub is looked at where that shows its small files in time (`service.planning.feasibility`), else by the
worker alone. No torch here: `config.json` and the names of the files say enough.
"""

import json
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from service.contract.criteria import CRITERIA
from service.contract.errors import (
    InvalidData,
    InvalidModel,
    InvalidRequest,
    NotFound,
    UnknownLabel,
    UnsupportedUnit,
    blaming_task,
)
from service.contract.families import ModelFamily, family_of
from service.contract.fields import RowValues
from service.contract.options import Layout, Objective, TaskKind, Unit
from service.contract.per_layer import is_per_layer
from service.contract.presets import ANSWER_COLUMNS, LABEL_COLUMN, needs_answers, resolve, template_fields
from service.contract.request import JobRequest
from service.contract.task import DataSource, Task, TaskWording
from service.planning.idle_options import check_effects
from service.sources.access import DATASET, HUB, Access, blaming
from service.sources.job_checkpoints import JOB
from service.sources.readers import LOCAL, REMOTE, scheme_of
from service.storage.keys import dataset_key

SAFE = (".safetensors", ".gguf")
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
ROW_FORMATS = (".jsonl", ".csv", ".parquet")


def admit(request: JobRequest, access: Access) -> ModelFamily | None:
    """The model's family, None where only the worker can tell. Raises the error that the request would meet later."""
    for place, task in request.placed_tasks.items():
        with blaming_task(place):
            _check_task(request, resolve(task), access)
    _check_kinds(request)
    for index, observed in enumerate(request.observe):
        with blaming_task(f"observe.{index}"):
            _check_data(observed.evaluation, resolve(observed), "task.evaluation", access)
    family = _check_model(request, access)
    if family is not None:
        check_units(request, family)
    return family


def _check_task(request: JobRequest, task: Task, access: Access) -> None:
    _check_method(request, task)
    for source, param in ((task.calibration, "task.calibration"), (task.evaluation, "task.evaluation")):
        if source is not None:
            _check_data(source, task, param, access)
    for name, source in task.evaluations.items():
        _check_data(source, task, f"task.evaluations.{name}", access)


def _check_kinds(request: JobRequest) -> None:
    if len({resolve(task).kind for task in request.tasks}) > 1:
        message = "the scores of classification and of generation tasks are not of one kind: give two jobs"
        raise InvalidRequest(message, param="tasks")


def _check_method(request: JobRequest, task: TaskWording) -> None:
    check_effects(request)
    if request.method.objective is Objective.margin and task.kind is TaskKind.generation:
        message = "`margin` compares labels and a generation task has none; use `log_probability`"
        raise InvalidRequest(message, param="method.objective")
    for unit in request.method.units:
        if unit in CRITERIA[request.method.criterion].unserved:
            message = f"the criterion {request.method.criterion} is not defined for {unit}"
            raise UnsupportedUnit(message, param="method.units")


# --- rows ----------------------------------------------------------------------------------------------------------


def _check_data(source: DataSource, task: TaskWording, param: str, access: Access) -> None:
    _check_rows(source, task, param)
    _check_source(source, param, access)


def _check_rows(source: DataSource, task: TaskWording, param: str) -> None:
    columns = template_fields(task.template or "")
    answer = ANSWER_COLUMNS[task.kind or TaskKind.classification]
    if needs_answers(task, param, any(row.get(answer) is not None for row in source.rows or ())):
        columns |= {answer}
    for number, row in enumerate(source.rows or (), start=1):
        _check_row(row, number, columns, task, param)


def _check_row(row: RowValues, number: int, columns: frozenset[str], task: TaskWording, param: str) -> None:
    for column in sorted(columns):
        if row.get(column) is None:
            raise InvalidData(f"row {number} has no {column!r}", param=f"{param}.rows")
    if task.labels is not None and LABEL_COLUMN in columns and str(row[LABEL_COLUMN]) not in task.labels:
        message = f"row {number} has the label {row[LABEL_COLUMN]!r}, which `task.labels` does not name"
        raise UnknownLabel(message, param=f"{param}.rows")


def _check_source(source: DataSource, param: str, access: Access) -> None:
    if source.uri is None:
        return
    param = f"{param}.uri"
    scheme = scheme_of(source.uri)
    if scheme == DATASET:
        if not access.storage.exists(dataset_key(access.tenant, source.uri.removeprefix("dataset://"))):
            raise InvalidData(f"{source.uri} does not exist", param=param)
        return
    if scheme != LOCAL and scheme not in REMOTE:
        raise InvalidData(f"{source.uri} has none of the schemes file, s3, gs, az, dataset", param=param)
    with blaming(param, InvalidData):
        access.check(source.uri)
    if not source.uri.lower().endswith(ROW_FORMATS):
        raise InvalidData(f"{source.uri} does not end in one of {', '.join(ROW_FORMATS)}", param=param)
    if scheme == LOCAL:
        with blaming(param, InvalidData):
            if not stat.S_ISREG(access.place(source.uri)[1].st_mode):
                raise NotFound(f"{source.uri} is not a file")


# --- the model -----------------------------------------------------------------------------------------------------


def _check_model(request: JobRequest, access: Access) -> ModelFamily | None:
    """The model's family; None where only the worker can tell."""
    model = request.model
    for uri, param in ((model.uri, "model.uri"), (model.adapter_uri, "model.adapter_uri")):
        if uri is not None:
            with blaming(param, InvalidModel):
                access.check(uri)
    if model.adapter_uri is not None and scheme_of(model.adapter_uri) != HUB:
        names = _names(model.adapter_uri, "model.adapter_uri", access)
        if not {"adapter_config.json", "adapter_model.safetensors"} <= names:
            message = f"{model.adapter_uri} holds no adapter_config.json and adapter_model.safetensors"
            raise InvalidModel(message, param="model.adapter_uri")
    if scheme_of(model.uri) == HUB:
        return None
    names = _names(model.uri, "model.uri", access)
    _check_weights(model.uri, names)
    if "config.json" not in names:
        return None
    config = _config(model.uri, access)
    family = family_of(config, model.uri)
    check_layout(request, config)
    return family


def check_layout(request: JobRequest, config: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a layout that cannot hold the model with this config.json, or changes nothing for it."""
    if is_per_layer(config) and request.output.layout is Layout.uniform:
        message = "the layers of this model have widths of their own already: ask for the layout `per_layer`"
        raise InvalidRequest(message, param="output.layout")
    whole = not is_per_layer(config) and set(request.method.units) == {Unit.layers}
    if whole and request.output.layout is Layout.per_layer:
        message = "the layout `per_layer` has an effect only where other units than `layers` go: leave it out"
        raise InvalidRequest(message, param="output.layout")


def _names(uri: str, param: str, access: Access) -> set[str]:
    if scheme_of(uri) not in (LOCAL, JOB, *REMOTE):
        raise InvalidModel(f"{uri} has none of the schemes hf, file, s3, gs, az, job", param=param)
    with blaming(param, InvalidModel):
        names = access.names(uri)
    if not names:
        raise InvalidModel(f"{uri} holds no files", param=param)
    return names


def _check_weights(uri: str, names: set[str]) -> None:
    if any(name.endswith(SAFE) for name in names):
        return
    if any(name.endswith(PICKLED) for name in names):
        message = f"{uri} has its weights in a pickle, which can run code; save them as safetensors"
        raise InvalidModel(message, param="model.uri")
    raise InvalidModel(f"{uri} holds neither safetensors nor GGUF files", param="model.uri")


def _config(uri: str, access: Access) -> Mapping[str, Any]:
    try:
        with blaming("model.uri", InvalidModel):
            config = _parsed(f"{uri.rstrip('/')}/config.json", access)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{uri} has a config.json that is not JSON", param="model.uri") from error
    if not isinstance(config, dict):
        raise InvalidModel(f"{uri} has a config.json that is not an object", param="model.uri")
    return config


def _parsed(uri: str, access: Access) -> Any:
    """The JSON in a small file. Many jobs name the same model, so that of a local one is read once in each state."""
    if scheme_of(uri) != LOCAL:
        return json.loads(access.content(uri))
    path, found = access.place(uri)
    return _parsed_file(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=64)
def _parsed_file(path: Path, _state: tuple[int, ...]) -> Any:
    return json.loads(path.read_bytes())


def check_units(request: JobRequest, family: ModelFamily) -> None:
    """Raise UnsupportedUnit for a unit that the family's stock config cannot hold fewer of."""
    for unit in request.method.units:
        if unit in family.refused:
            raise UnsupportedUnit(f"{family.model_type}: {family.refused[unit]}", param="method.units")
        if unit not in family.units:
            message = f"{family.model_type} has no unit {unit!r}; it has {', '.join(family.units)}"
            raise UnsupportedUnit(message, param="method.units")
