"""A model that comes in, as its small files describe it: config.json and the headers of its weights."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from service.admission import Access, blaming
from service.errors import InvalidModel
from service.sources import scheme_of
from service.tensor_names import FAMILY_NAMES, FamilyNames
from service.weight_headers import FLOATS, DamagedHeader, Tensors, TensorShape, file_size, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
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
    def names(self) -> FamilyNames:
        return FAMILY_NAMES[self.family]

    @property
    def dtype(self) -> str:
        """That in which the slim checkpoint is written."""
        named = self.config.get("dtype") or self.config.get("torch_dtype")
        stored = (tensor.dtype for tensor in self.tensors.values() if tensor.dtype in FLOATS)
        return DTYPES.get(str(named)) or next(stored)


def read_checkpoint(uri: str, access: Access) -> Checkpoint:
    """The model's config and the headers of its weights. Raises InvalidModel."""
    if scheme_of(uri) == "hf" or PurePosixPath(uri).suffix == ".gguf":
        message = f"a plan reads config.json and safetensors where they lie, and {uri} is first fetched by a worker"
        raise InvalidModel(message, param="model.uri")
    with blaming("model.uri", InvalidModel):
        config = _json(access, uri, "config.json")
        tensors: dict[str, TensorShape] = {}
        stored = 0
        for name in _weight_files(uri, access):
            header = _header(f"{uri.rstrip('/')}/{name}", access)
            stored += file_size(header)
            tensors |= header
    family = str(config["model_type"])
    return Checkpoint(family, config, _each_once(tensors, FAMILY_NAMES[family], config), stored)


def _json(access: Access, uri: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(access.content(f"{uri.rstrip('/')}/{name}"))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{name} is not JSON", param="model.uri") from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{name} is not an object", param="model.uri")
    return content


def _weight_files(uri: str, access: Access) -> list[str]:
    names = access.names(uri)
    if SINGLE in names:
        return [SINGLE]
    if INDEX not in names:
        raise InvalidModel(f"{uri} has no {SINGLE} to plan with", param="model.uri")
    weight_map = _json(access, uri, INDEX).get("weight_map")
    files = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    if not files or not set(files) <= names:
        raise InvalidModel(f"{INDEX} does not name files of its own directory", param="model.uri")
    return files


def _header(uri: str, access: Access) -> dict[str, TensorShape]:
    try:
        return read_header(lambda start, end: access.piece(uri, start, end))
    except DamagedHeader as error:
        raise InvalidModel(f"{PurePosixPath(uri).name} is damaged: {error}", param="model.uri") from error


def _each_once(tensors: Tensors, names: FamilyNames, config: Mapping[str, Any]) -> dict[str, TensorShape]:
    """Without tensors that repeat the input embedding."""
    tied = config.get("tie_word_embeddings", names.tied_by_default)
    repeats = names.repeated + (names.tied if tied else ())
    found = dict(tensors)
    for name, tensor in tensors.items():
        twins = sum(other.shape == tensor.shape for other in found.values())
        if name.endswith(repeats) and repeats and twins > 1:
            del found[name]
    return found
