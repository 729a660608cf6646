"""A checkpoint as its small files describe it: the config, and the shapes of its tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.errors import InvalidModel
from service.families.table import FAMILIES
from service.families.tensor_names import CheckpointNames
from service.sources.model_directory import ModelDirectory
from service.sources.model_files import GGUF
from service.sources.safetensors_header import DTYPES, FLOATS, Tensors, TensorShape

MAX_UNITS = 2**17  # of a kind in a layer; a larger number in a foreign file would keep the planning busy for hours
# Tensors that some checkpoints hold and that are no parameters: masks, position ids, frequencies, BART's zero bias.
BUFFER = re.compile(r".*(\.attn\.(masked_)?bias|\.attention\.(masked_)?bias|position_ids|inv_freq)|final_logits_bias")


@dataclass(frozen=True)
class Checkpoint:
    """The config and the tensors of a model; a tensor that repeats the input embedding is left out."""

    family: str
    config: Mapping[str, Any]
    tensors: Tensors
    stored_bytes: int  # size of the files that hold the weights

    @property
    def names(self) -> CheckpointNames:
        """The names of the family's tensors and config fields."""
        return FAMILIES[self.family].names

    @property
    def dtype(self) -> str:
        """The dtype in which the slim checkpoint is written, as safetensors spells it."""
        named = DTYPES.get(str(self.config.get("dtype") or self.config.get("torch_dtype")))
        stored = (tensor.dtype for tensor in self.tensors.values())
        return next((dtype for dtype in (named, *stored) if dtype in FLOATS), "F32")

    def number(self, field: str) -> int:
        """A count in the config. Raises InvalidModel if the config has no such count."""
        value = self.config.get(field)
        if type(value) is not int or not 0 < value <= MAX_UNITS:
            message = f"config.json must have a whole number from 1 to {MAX_UNITS} in {field!r}"
            raise InvalidModel(message, param="model.uri")
        return value


def read_checkpoint(model: ModelDirectory) -> Checkpoint:
    """The config and the headers of the weights of a model. Raises as the properties of `ModelDirectory` do."""
    if model.source.uri.endswith(GGUF):
        message = f"a plan needs config.json and safetensors files: {model.source.uri} is GGUF, which a worker converts"
        raise InvalidModel(message, param="model.uri")
    family, config, headers = model.family.model_type, model.config, model.headers
    tensors = {name: tensor for header in headers for name, tensor in header.tensors.items()}
    once = _without_repeated(tensors, FAMILIES[family].names, config)
    return Checkpoint(family, config, once, sum(header.file_bytes for header in headers))


def _without_repeated(tensors: Tensors, names: CheckpointNames, config: Mapping[str, Any]) -> dict[str, TensorShape]:
    """The tensors without those that repeat the input embedding."""
    tied = config.get("tie_word_embeddings", names.tied_by_default)
    repeats = names.repeated + (names.tied if tied else ())
    found = dict(tensors)
    for name in tensors:
        if name.endswith(repeats) and sum(other.shape == found[name].shape for other in found.values()) > 1:
            del found[name]
    return found
