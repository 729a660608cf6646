"""What can be refused before any work: everything that follows from the request, its rows and a model's small files.

A model on the hub is looked at where that shows its small files in time (`service.planning.feasibility`), else by the
worker alone. No torch here: `config.json` and the names of the files say enough.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from service.contract.errors import (
    ForbiddenPath,
    InvalidData,
    InvalidModel,
    InvalidRequest,
    NotFound,
    UnknownLabel,
    UnsupportedFamily,
    UnsupportedUnit,
    blaming_task,
)
from service.contract.families import FAMILIES, UNSERVED
from service.contract.fields import (
    DataSource,
    Family,
    JobRequest,
    Layout,
    Objective,
    Row,
    Task,
    TaskKind,
    TaskWording,
    Unit,
)
from service.contract.per_layer import is_per_layer
from service.contract.presets import ANSWER_COLUMNS, LABEL_COLUMN, needs_answers, resolve, template_fields
from service.planning.idle_options import check_effects
from service.sources.job_checkpoints import JOB, job_model
from service.sources.readers import LOCAL, REMOTE, list_names, local_place, read_bytes, read_range, scheme_of
from service.sources.uri_policy import Reach
from service.storage.object_store import Storage, dataset_key

HUB = "hf"
DATASET = "dataset"
RETRY_SECONDS = 5  # a client waits for the answer
SAFE = (".safetensors", ".gguf")
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
ROW_FORMATS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Access:
    """What a caller may name: data sets of the tenant, local paths under `roots` (empty: all) where at all, and, for a
    caller that is not trusted with everything, what lies in `reach`."""

    storage: Storage
    tenant: str
    local_paths: bool
    roots: Sequence[Path] = ()
    reach: Reach | None = None

    def path(self, uri: str) -> Path:
        """The local path of a file:// URI. Raises ForbiddenPath, or NotFound where nothing lies."""
        return self.place(uri)[0]

    def place(self, uri: str) -> tuple[Path, os.stat_result]:
        """`path`, and what lies there."""
        if not self.local_paths:
            raise ForbiddenPath("this deployment allows no local paths (SLIM_LOCAL_ROOTS)")
        path, found = local_place(uri, self.roots)
        if self.reach is not None:
            Reach(self.reach.own).check(path.as_uri())
        return path, found

    def check(self, uri: str) -> None:
        """Raise ForbiddenPath for what is neither a local path, nor a job of the tenant, nor within reach."""
        if self.reach is not None and scheme_of(uri) not in (LOCAL, JOB):
            self.reach.check(uri)

    def names(self, uri: str) -> set[str]:
        """The names in a directory; the one name of a file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            return set(job_model(uri, self.storage, self.tenant).files)
        if scheme_of(uri) != LOCAL:
            return set(list_names(uri, retry_seconds=RETRY_SECONDS))
        path = self.path(uri)
        try:
            with os.scandir(path) as entries:
                return {entry.name for entry in entries}
        except NotADirectoryError:
            return {path.name}

    def content(self, uri: str) -> bytes:
        """A small file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            parent, _, name = uri.rpartition("/")
            return job_model(parent, self.storage, self.tenant).content(name)
        if scheme_of(uri) == LOCAL:
            return self.path(uri).read_bytes()
        return read_bytes(uri, retry_seconds=RETRY_SECONDS)

    def piece(self, uri: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            parent, _, name = uri.rpartition("/")
            return job_model(parent, self.storage, self.tenant).piece(name, start, end)
        if scheme_of(uri) == LOCAL:
            uri = self.path(uri).as_uri()
        return read_range(uri, start, end, retry_seconds=RETRY_SECONDS)


@contextmanager
def blaming(param: str, missing: type[InvalidData] | type[InvalidModel]) -> Iterator[None]:
    """Say which field named the path that is missing or forbidden."""
    try:
        yield
    except NotFound as error:
        raise missing(error.message, param=param) from error
    except ForbiddenPath as error:
        raise ForbiddenPath(error.message, param=param) from error
    except PermissionError as error:
        raise missing(f"{error.filename} cannot be read", param=param) from error


def admit(request: JobRequest, access: Access) -> Family | None:
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
        if unit in UNSERVED.get(request.method.criterion, ()):
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


def _check_row(row: Row, number: int, columns: frozenset[str], task: TaskWording, param: str) -> None:
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


def _check_model(request: JobRequest, access: Access) -> Family | None:
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
        message = "the layers of this model have widths of their own already: ask for the layout `per-layer`"
        raise InvalidRequest(message, param="output.layout")
    whole = not is_per_layer(config) and set(request.method.units) == {Unit.layers}
    if whole and request.output.layout is Layout.per_layer:
        message = "the layout `per-layer` has an effect only where other units than `layers` go: leave it out"
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


def family_of(config: Mapping[str, Any], uri: str) -> Family:
    """The family that the config of the model at `uri` names. Raises InvalidModel, UnsupportedFamily."""
    if "auto_map" in config and not is_per_layer(config):
        message = f"{uri} asks for code of its own (`auto_map` in config.json), which is never run"
        raise InvalidModel(message, param="model.uri")
    if "quantization_config" in config:
        raise InvalidModel(f"the weights of {uri} are quantised: give the unquantised checkpoint", param="model.uri")
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"{uri} is of the family {model_type!r}; there are {', '.join(sorted(FAMILIES))}"
        raise UnsupportedFamily(message, param="model.uri")
    return FAMILIES[model_type]


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


def check_units(request: JobRequest, family: Family) -> None:
    """Raise UnsupportedUnit for a unit that the family's stock config cannot hold fewer of."""
    for unit in request.method.units:
        if unit in family.refused:
            raise UnsupportedUnit(f"{family.model_type}: {family.refused[unit]}", param="method.units")
        if unit not in family.units:
            message = f"{family.model_type} has no unit {unit!r}; it has {', '.join(family.units)}"
            raise UnsupportedUnit(message, param="method.units")
