"""A model that comes in, as its small files describe it: config.json and the headers of its weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from service.contract.errors import InvalidModel
from service.contract.families import FAMILIES, family_of
from service.contract.task import ModelSource
from service.contract.tensor_names import CheckpointNames
from service.sources.access import HUB, Access, blaming
from service.sources.hub import HubFiles
from service.sources.readers import scheme_of
from service.sources.safetensors_header import FLOATS, DamagedHeader, Header, Tensors, TensorShape, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_UNITS = 2**17  # of a kind in a layer; what a stranger's file says must not become hours of counting
# Saved by some checkpoints beside the parameters: masks, position numbers, frequencies, and BART's zero bias.
BUFFER = re.compile(r".*(\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|position_ids|inv_freq)|final_logits_bias")
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


@dataclass(frozen=True)
class Checkpoint:
    """A model as its small files describe it; `tensors` has each parameter once."""

    family: str
    config: Mapping[str, Any]
    tensors: Tensors
    stored_bytes: int  # of the files that hold the weights

    @property
    def names(self) -> CheckpointNames:
        return FAMILIES[self.family].names

    @property
    def dtype(self) -> str:
        """That in which the slim checkpoint is written."""
        named = self.config.get("dtype") or self.config.get("torch_dtype")
        stored = (tensor.dtype for tensor in self.tensors.values() if tensor.dtype in FLOATS)
        return DTYPES.get(str(named)) or next(stored, "F32")

    def number(self, field: str) -> int:
        """A count in the config. Raises InvalidModel where there is none."""
        value = self.config.get(field)
        if type(value) is not int or not 0 < value <= MAX_UNITS:
            message = f"config.json does not say {field!r} as a count of at most {MAX_UNITS}"
            raise InvalidModel(message, param="model.uri")
        return value


class Files(Protocol):
    """The files of a model, wherever they lie. Every method may raise what `read_checkpoint` does."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def content(self, name: str) -> bytes:
        """A small file."""

    def header(self, name: str) -> Header:
        """The header of a safetensors file. Raises DamagedHeader."""


@dataclass(frozen=True)
class StoredFiles:
    """A directory at file://, s3://, gs:// or az://."""

    uri: str
    access: Access

    def has(self, name: str) -> bool:
        return name in self.access.names(self.uri)

    def content(self, name: str) -> bytes:
        return self.access.content(self._uri(name))

    def header(self, name: str) -> Header:
        return read_header(lambda start, end: self.access.piece(self._uri(name), start, end))

    def _uri(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"


def read_checkpoint(source: ModelSource, access: Access) -> Checkpoint:
    """The model's config and the headers of its weights.

    Raises InvalidModel, UnsupportedFamily, ForbiddenPath, and StorageUnavailable where they cannot be reached.
    """
    if PurePosixPath(source.uri).suffix == ".gguf":
        message = f"a plan reads config.json and safetensors, and {source.uri} is first converted by a worker"
        raise InvalidModel(message, param="model.uri")
    files = HubFiles.of(source) if scheme_of(source.uri) == HUB else StoredFiles(source.uri, access)
    with blaming("model.uri", InvalidModel):
        config = _json(files, "config.json")
        family = family_of(config, source.uri).model_type
        headers = [_header(files, name) for name in _weight_files(files)]
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    once = _each_once(tensors, FAMILIES[family].names, config)
    return Checkpoint(family, config, once, sum(header.file_bytes for header in headers))


def describes_itself(source: ModelSource) -> bool:
    """Whether a model on a hub has the small files that `read_checkpoint` reads. Raises what asking the hub does."""
    files = HubFiles.of(source)
    return files.has("config.json") and (files.has(SINGLE) or files.has(INDEX))


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        content = json.loads(files.content(name))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{name} is not JSON", param="model.uri") from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{name} is not an object", param="model.uri")
    return content


def _weight_files(files: Files) -> list[str]:
    if files.has(SINGLE):
        return [SINGLE]
    if not files.has(INDEX):
        raise InvalidModel(f"there is no {SINGLE} to plan with", param="model.uri")
    weight_map = _json(files, INDEX).get("weight_map")
    names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not names or any(PurePosixPath(name).name != name or not files.has(name) for name in names):
        raise InvalidModel(f"{INDEX} does not name files of its own directory", param="model.uri")
    return names


def _header(files: Files, name: str) -> Header:
    try:
        return files.header(name)
    except DamagedHeader as error:
        raise InvalidModel(f"{name} is damaged: {error}", param="model.uri") from error


def _each_once(tensors: Tensors, names: CheckpointNames, config: Mapping[str, Any]) -> dict[str, TensorShape]:
    """Without tensors that repeat the input embedding."""
    tied = config.get("tie_word_embeddings", names.tied_by_default)
    repeats = names.repeated + (names.tied if tied else ())
    found = dict(tensors)
    for name in tensors:
        if name.endswith(repeats) and sum(other.shape == found[name].shape for other in found.values()) > 1:
            del found[name]
    return found
