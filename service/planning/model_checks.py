"""The checks of a model by the names of its files and its config.json, and of an adapter by the names of its files."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidModel, InvalidRequest, blaming_task
from service.contract.options import Layout, Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import needs_answers, resolve
from service.contract.request.synthesis import blaming_writer, check_reader_of_rationales, check_writer
from service.contract.request.task import DataSource, ModelSource, Task, TaskWording
from service.models.families.config_checks import check_settings, num_classes
from service.models.families.config_values import check_generation_config
from service.models.families.family import CLASSIFIERS, ModelFamily
from service.models.families.head_classes import check_entity_tags, head_classes, with_labels
from service.models.families.head_kind import check_kind
from service.models.families.named_head import check_head
from service.models.families.per_layer import is_per_layer
from service.models.families.positions import max_tokens
from service.models.families.table import check_first_layer, check_merge, check_units
from service.planning.row_counts import inline_rows
from service.planning.tensor_checks import check_tensors
from service.rows.checks import have_answers
from service.rows.labels import check_classes
from service.sources.access import HUB, Access, blaming
from service.sources.adapter import Adapter
from service.sources.checkpoint import read_checkpoint
from service.sources.job_checkpoints import JOB
from service.sources.model_directory import ModelDirectory
from service.sources.model_files import CONFIG, GENERATION_CONFIG, GGUF, PICKLED
from service.sources.readers import LOCAL, REMOTE, scheme_of


def check_model(request: JobRequest, access: Access) -> ModelDirectory:
    """The directory of the model, checked as far as the names of its files and its config.json tell.

    Nothing is read of a model on a hub, and of a GGUF file nothing. Raises InvalidModel, UnsupportedFamily,
    ForbiddenPath, and what `check_config` raises.
    """
    source, model = request.model, ModelDirectory.of(request.model, access)
    _check_uris(source, model, access)
    if not model.is_on_hub:
        _check_names(source.uri, model.names)
        if CONFIG in model.names:
            check_config(request, model.family, model.config, model.adapter)
        if GENERATION_CONFIG in model.names:
            check_generation_config(model.generation_config)
    return model


def check_config(
    request: JobRequest, family: ModelFamily, config: Mapping[str, Any], adapter: Adapter | None = None
) -> None:
    """Check what config.json decides.

    Raises UnsupportedFamily for another head than the family's class has, UnsupportedUnit for a unit that the family's
    stock config cannot hold fewer of, InvalidRequest for a layout, layers or a number of tokens that the model cannot
    have and for a kind of task that it does not do, InvalidLabels for labels that its classification head lacks, and
    what `check_settings` and `head_kind` raise.
    """
    check_head(config, family, has_adapter=request.model.adapter_uri is not None)
    check_settings(config, family)
    check_units(request.method.units, family, config)
    check_first_layer(request.method, family, config)
    check_merge(request.method, family)
    _check_layout(request, config)
    _check_tokens(request, family, config)
    _check_synthesis(request, family)
    has_unread = request.model.adapter_uri is not None and adapter is None
    _check_tasks(request, family, config, _id2label(config, adapter), has_unread_adapter=has_unread)


def _check_synthesis(request: JobRequest, family: ModelFamily) -> None:
    """Check that the model can write the rows that a synthesis asks it for, and be trained on rationales."""
    for place, task in request.placed_tasks.items():
        with blaming_task(place):
            check_reader_of_rationales(task, family.kind)
            if task.synthesis is not None and task.synthesis.model is None:
                check_writer(family.kind, is_own=True)


def check_writers(request: JobRequest, access: Access) -> None:
    """Check the models that are named to write rows, as far as their files tell; on a hub nothing is read of them.

    Raises as `check_model`, and InvalidRequest for one that is no decoder.
    """
    for place, task in request.placed_tasks.items():
        source = task.synthesis.model if task.synthesis else None
        if source is not None:
            with blaming_task(place), blaming_writer():
                _check_writer(source, access)


def _check_writer(source: ModelSource, access: Access) -> None:
    model = ModelDirectory.of(source, access)
    _check_uris(source, model, access)
    if model.is_on_hub:
        return
    _check_names(source.uri, model.names)
    if CONFIG in model.names:
        check_head(model.config, model.family, has_adapter=source.adapter_uri is not None)
        check_settings(model.config, model.family)
        check_writer(model.family.kind, is_own=False)
        check_tensors(read_checkpoint(model))


def _check_layout(request: JobRequest, config: Mapping[str, Any]) -> None:
    if is_per_layer(config) and request.output.layout is Layout.uniform:
        message = "the layers of this model have different widths already: ask for the layout `per_layer`"
        raise InvalidRequest(message, param="output.layout")
    only_layers = not is_per_layer(config) and set(request.method.scored_units) == {Unit.layers}
    if only_layers and request.output.layout is Layout.per_layer:
        message = "the layout `per_layer` has an effect only where other units than `layers` are removed: leave it out"
        raise InvalidRequest(message, param="output.layout")


def _check_tokens(request: JobRequest, family: ModelFamily, config: Mapping[str, Any]) -> None:
    bound, most = request.target.latency_ms, max_tokens(family, config)
    if bound is not None and most is not None and bound.tokens > most:
        message = f"the model takes {most} tokens at most: ask for the latency of fewer"
        raise InvalidRequest(message, param="target.latency_ms.tokens")


def _id2label(config: Mapping[str, Any], adapter: Adapter | None) -> object:
    """The names of the classes; those of a head that the adapter brings have numbers where config.json has no names."""
    named, count = config.get("id2label"), adapter.num_labels if adapter else None
    if count is None or (isinstance(named, dict) and len(named) == count):
        return {index: f"LABEL_{index}" for index in range(num_classes(config))} if named is None else named
    return {str(index): f"LABEL_{index}" for index in range(count)}


def _check_tasks(
    request: JobRequest,
    family: ModelFamily,
    config: Mapping[str, Any],
    id2label: object,
    *,
    has_unread_adapter: bool = False,
) -> None:
    """Check the kinds of all tasks, and their labels. An `id2label` that cannot be read is left to the worker."""
    if not isinstance(id2label, dict) or not all(str(index).isdecimal() for index in id2label):
        return
    for place, task in request.placed_wordings.items():
        with blaming_task(place):
            resolved = resolve(task)
            if family.kind == "encoder" and has_unread_adapter:
                continue  # which may bring a head
            check_kind(resolved, family.kind, config.get("problem_type"), len(id2label))
            if family.kind in CLASSIFIERS:
                labelled = with_labels(resolved, head_classes(resolved, id2label))
                check_entity_tags(labelled)
                _check_row_classes(resolved, labelled)


def _check_row_classes(task: TaskWording, labelled: TaskWording) -> None:
    """Check the labels of inline rows by the classes of the head, where the task itself has no `labels`."""
    if task.labels is not None or labelled.labels is None:
        return
    parts: dict[str, DataSource | None] = {
        f"task.{part}": getattr(task, part, None) for part in ("calibration", "evaluation")
    }
    if isinstance(task, Task):
        parts |= {f"task.evaluations.{name}": source for name, source in task.evaluations.items()}
    for param, source in parts.items():
        rows = inline_rows(source, labelled) if source is not None else None
        if rows is not None and needs_answers(task, param, have_answers(rows, task)):
            check_classes(rows, labelled)


def _check_uris(source: ModelSource, model: ModelDirectory, access: Access) -> None:
    _check_uri(source.uri, "model.uri", access)
    if source.adapter_uri is not None:
        _check_uri(source.adapter_uri, "model.adapter_uri", access)
        model.check_adapter()


def _check_uri(uri: str, param: str, access: Access) -> None:
    if scheme_of(uri) not in (HUB, LOCAL, JOB, *REMOTE):
        message = f"{uri} must start with hf://, file://, s3://, gs://, az:// or job://"
        raise InvalidModel(message, param=param)
    with blaming(param, InvalidModel):
        access.check(uri)


def _check_names(uri: str, names: set[str]) -> None:
    """Raise InvalidModel unless the names are those of a model in safetensors, or of one GGUF file."""
    if any(name.endswith(".safetensors") for name in names):
        if CONFIG not in names:
            raise InvalidModel(f"{uri} has safetensors files and no {CONFIG}", param="model.uri")
        return
    gguf = [name for name in names if name.endswith(GGUF)]
    if not names:
        message = f"{uri} holds no files"
    elif len(gguf) > 1:
        message = f"{uri} holds {len(gguf)} GGUF files: name one of them"
    elif not gguf and any(name.endswith(PICKLED) for name in names):
        message = f"{uri} has its weights in a pickle, which can run code: save them as safetensors"
    elif not gguf:
        message = f"{uri} holds neither safetensors nor GGUF files"
    else:
        return
    raise InvalidModel(message, param="model.uri")
