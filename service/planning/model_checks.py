"""The checks of a model by the names of its files and its config.json, and of an adapter by the names of its files."""

from collections.abc import Mapping
from typing import Any

from service.contract.errors import InvalidModel, InvalidRequest, UnsupportedUnit
from service.contract.families import ModelFamily
from service.contract.options import Layout, Unit
from service.contract.per_layer import is_per_layer
from service.contract.request import JobRequest
from service.sources.access import HUB, Access, blaming
from service.sources.job_checkpoints import JOB
from service.sources.model_directory import CONFIG, ModelDirectory
from service.sources.readers import LOCAL, REMOTE, scheme_of

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
ADAPTER_FILES = frozenset({"adapter_config.json", "adapter_model.safetensors"})


def check_model(request: JobRequest, access: Access) -> ModelDirectory:
    """The directory of the model, checked as far as the names of its files and its config.json tell.

    Nothing is read of a model on a hub, and of GGUF nothing but its name. Raises InvalidModel, UnsupportedFamily,
    UnsupportedUnit, ForbiddenPath, and InvalidRequest for a layout that the model cannot have.
    """
    source, model = request.model, ModelDirectory.of(request.model, access)
    _check_uri(source.uri, "model.uri", access)
    if source.adapter_uri is not None:
        _check_uri(source.adapter_uri, "model.adapter_uri", access)
        _check_adapter(source.adapter_uri, access)
    if not model.is_on_hub:
        _check_names(source.uri, model.names)
        if CONFIG in model.names:
            check_units(request, model.family)
            check_layout(request, model.config)
    return model


def check_layout(request: JobRequest, config: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a layout that the model with this config.json cannot have, or that changes nothing."""
    if is_per_layer(config) and request.output.layout is Layout.uniform:
        message = "the layers of this model have different widths already: ask for the layout `per_layer`"
        raise InvalidRequest(message, param="output.layout")
    only_layers = not is_per_layer(config) and set(request.method.units) == {Unit.layers}
    if only_layers and request.output.layout is Layout.per_layer:
        message = "the layout `per_layer` has an effect only where other units than `layers` are removed: leave it out"
        raise InvalidRequest(message, param="output.layout")


def check_units(request: JobRequest, family: ModelFamily) -> None:
    """Raise UnsupportedUnit for a unit that the stock config of the family cannot hold fewer of."""
    for unit in request.method.units:
        if unit in family.refused:
            raise UnsupportedUnit(f"{family.model_type}: {family.refused[unit]}", param="method.units")


def _check_uri(uri: str, param: str, access: Access) -> None:
    if scheme_of(uri) not in (HUB, LOCAL, JOB, *REMOTE):
        message = f"{uri} must start with hf://, file://, s3://, gs://, az:// or job://"
        raise InvalidModel(message, param=param)
    with blaming(param, InvalidModel):
        access.check(uri)


def _check_adapter(uri: str, access: Access) -> None:
    if scheme_of(uri) == HUB:
        return
    with blaming("model.adapter_uri", InvalidModel):
        names = access.names(uri)
    if not names >= ADAPTER_FILES:
        message = f"{uri} has no {' or no '.join(sorted(ADAPTER_FILES - names))}: give the directory of a LoRA adapter"
        raise InvalidModel(message, param="model.adapter_uri")


def _check_names(uri: str, names: set[str]) -> None:
    """Raise InvalidModel unless the names are those of a model in safetensors, or of one GGUF file."""
    if any(name.endswith(".safetensors") for name in names):
        if CONFIG not in names:
            raise InvalidModel(f"{uri} has safetensors files and no {CONFIG}", param="model.uri")
        return
    gguf = [name for name in names if name.endswith(".gguf")]
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
