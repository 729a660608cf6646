"""Writes tiny quantised models by hand, as each format is specified, with the weights that they stand for.

Nothing here shares code with what is tested: values are packed with loops over numpy, and the weights that they stand
for come from the values before they are packed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.request.task import ModelSource
from tests.support import checkpoints
from tests.support.checkpoints import change_config
from tests.support.tiny_models import TINY
from worker.checkpoints.dtypes import cast_weights
from worker.sources.fetching import FetchedModel, fetch_model

Parts = dict[str, Tensor]  # what follows the name of the module -> tensor


class Stored(NamedTuple):
    """A quantised weight, and the weight in float32 that it stands for."""

    parts: Parts
    dense: Tensor


@dataclass(frozen=True)
class Format:
    """A way to store a quantised model."""

    settings: Mapping[str, Any] | None  # `quantization_config`
    store: Callable[[str, Tensor], Stored]  # of the weight of a module with this name
    name: str  # as reports call it


def write(directory: Path, form: Format, name: str = "llama", dtype: str | None = "bfloat16") -> PreTrainedModel:
    """Save a model of TINY with its linear layers quantised, and a tokenizer; the model in float32 that it stands for.

    The other tensors are stored in bfloat16. `dtype` is what config.json says; weights are rounded to it, if it is
    float16 or float32, else to bfloat16.
    """
    checkpoints.write(directory, name, torch.bfloat16)
    model = TINY[name]()
    cast_weights(model, torch.bfloat16)
    rounded_to = {"float16": torch.float16, "float32": torch.float32}.get(str(dtype), torch.bfloat16)
    tensors: Parts = {}
    for path, tensor in load_file(directory / "model.safetensors").items():
        if not is_linear(path):
            tensors[path] = tensor
            continue
        module = path.removesuffix(".weight")
        as_linear = tensor.T if name == "gpt2" else tensor
        parts, dense = form.store(module, as_linear.float())
        tensors |= {
            f"{module}.{part}": value.clone(memory_format=torch.contiguous_format) for part, value in parts.items()
        }
        model.get_parameter(path).data = dense.T if name == "gpt2" else dense
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    change_config(directory, dtype=dtype, **({} if form.settings is None else {"quantization_config": form.settings}))
    cast_weights(model, rounded_to)
    cast_weights(model, torch.float32)
    return model


def fetch(directory: Path) -> FetchedModel:
    """The model of a directory, dequantised beside it."""
    scratch = directory.parent / "scratch"
    return fetch_model(ModelSource(uri=directory.as_uri()), scratch=scratch, cache=scratch / "cache")


def changing_tensors(change: Callable[[Parts], object]) -> Callable[[Path], None]:
    """Changes the tensors of the files."""

    def edit(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})

    return edit


def is_linear(path: str) -> bool:
    """Whether a tensor of a tiny Llama or GPT-2 is the weight of a linear layer within a layer of the model."""
    return re.fullmatch(r".*\.(layers|h)\.\d\..*(proj|c_attn|c_fc)\.weight", path) is not None
