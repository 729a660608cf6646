"""Dequantises a checkpoint: writes an ordinary one with the same values, one tensor at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from service.contract.answers.report import Dequantised
from service.models.quantisation.methods import refused
from service.sources.model_files import CARD, CONFIG, INDEX, SINGLE, is_wanted
from service.sources.quantised_weights import QuantisedWeight, StoredWeights, plain_config
from worker.sources.validation import read_json, weight_files

SHARD_BYTES = 4 * 2**30  # of the largest file that is written, unless a single tensor is larger


def dequantise(directory: Path, weights: StoredWeights, dequantised: Dequantised, target: Path) -> Path:
    """Write the checkpoint of a directory to `target` as an ordinary one, and return that.

    `weights` are the tensors of the directory by the headers of its files. All other files of the model are linked.
    Raises InvalidModel for values that cannot be dequantised.
    """
    target.mkdir(parents=True)
    for path in directory.iterdir():
        is_weight = path.suffix == ".safetensors" or path.name in (CONFIG, INDEX)
        if (is_wanted(path.name) or path.name == CARD) and not is_weight:
            (target / path.name).symlink_to(path.resolve())
    for path in directory.glob("*/config.json"):
        if is_wanted(name := str(path.relative_to(directory))):
            (target / name).parent.mkdir()
            (target / name).symlink_to(path.resolve())
    config = plain_config(read_json(directory / CONFIG), dequantised.dtype)
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for path in weight_files(directory):
            file = stack.enter_context(safe_open(path, framework="pt"))
            files |= dict.fromkeys(file.keys(), file)
        for name in sorted(weights.spare):
            if files[name].get_tensor(name).any():
                raise refused("the model", f"the tensor {name} is no bias of this class and not zero")
        _write(files, weights, target)
    return target


def _write(files: Mapping[str, Any], weights: StoredWeights, target: Path) -> None:
    """Write all tensors; `files`: name of a stored tensor -> the open file that holds it."""
    shards = list(_shards(weights))
    names = [SINGLE] if len(shards) == 1 else [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in _from_1(shards)]
    for file_name, shard in zip(names, shards, strict=True):
        save_file({name: _tensor(name, files, weights) for name in shard}, target / file_name, {"format": "pt"})
    if len(shards) > 1:
        size = sum(tensor.size for tensor in weights.tensors.values())
        places = {name: file_name for file_name, shard in zip(names, shards, strict=True) for name in shard}
        (target / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))


def _from_1(items: Sequence[object]) -> range:
    return range(1, len(items) + 1)


def _shards(weights: StoredWeights) -> Iterator[list[str]]:
    """The names of the tensors of each file."""
    shard: list[str] = []
    size = 0
    for name, tensor in weights.tensors.items():
        if shard and size + tensor.size > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.size
    yield shard


def _tensor(name: str, files: Mapping[str, Any], weights: StoredWeights) -> Tensor:
    """A tensor of the ordinary checkpoint."""
    if name not in weights.quantised:
        stored: Tensor = files[name].get_tensor(name)
        return stored
    weight = weights.quantised[name]
    parts = {part: files[stored].get_tensor(stored) for part, stored in weight.parts.items()}
    try:
        return _dense(parts, weight)
    except ValueError as error:
        raise refused("the model", f"the values of {name} cannot be dequantised ({error})") from error


def _dense(parts: Mapping[str, Tensor], weight: QuantisedWeight) -> Tensor:
    """The dequantised weight, rounded once to its dtype. Raises ValueError for values that do not fit its shape."""
    from worker.sources.dequantised_values import VALUES  # slow to import, and needed by few jobs

    values = VALUES[weight.scheme.layout](parts, weight.scheme)
    values = values.T if weight.is_transposed else values
    if sorted(values.shape) != sorted(weight.dense.shape):  # headers may tell the sides, and not which is which
        raise ValueError(f"they have the shape {tuple(values.shape)}, where {weight.dense.shape} belongs")
    return values.to(TORCH_DTYPES[weight.dense.dtype]).contiguous()


TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
