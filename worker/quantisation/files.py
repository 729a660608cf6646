"""Writes a quantised checkpoint: the files of another one, with the parts of quantised weights in place of these."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from service.sources.model_files import CARD, CONFIG, INDEX
from worker.quantisation.precisions import Parts, Storage
from worker.quantisation.weights import QuantisedWeight
from worker.sources.validation import stored_tensors, weight_files


def write(
    checkpoint: Path,
    directory: Path,
    weights: Mapping[str, QuantisedWeight],
    storage: Storage,
    dtype: torch.dtype,
    *,
    group_size: int | None,
    ignored: list[str],
) -> None:
    """Write the checkpoint with these weights, path of a module -> its weight, into a new directory.

    `ignored` are the linear modules that stay as they are. One file of weights is read at a time. Raises ValueError
    where the checkpoint does not hold each of the weights under the name of its module.
    """
    files = weight_files(checkpoint)
    by_name = {f"{path}.weight": weight for path, weight in weights.items()}
    shapes = {name: tensor.shape for name, tensor in stored_tensors(files).items()}
    if missing := by_name.keys() - shapes.keys():
        raise ValueError(f"the checkpoint lacks {min(missing)}")
    shutil.copytree(checkpoint, directory, ignore=shutil.ignore_patterns(*(path.name for path in files), CARD, INDEX))
    metadata = storage.metadata(dtype, shapes, by_name)
    weight_map: dict[str, str] = {}
    size = 0
    for path in files:
        tensors = {name: tensor.contiguous() for name, tensor in _parts_of_file(path, by_name, storage)}
        save_file(tensors, directory / path.name, metadata)
        shutil.copymode(checkpoint / CONFIG, directory / path.name)
        weight_map |= dict.fromkeys(tensors, path.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config = json.loads((checkpoint / CONFIG).read_bytes())
    settings = storage.settings(group_size, ignored)
    (directory / CONFIG).write_text(json.dumps(config | {"quantization_config": settings}, indent=2) + "\n", "utf-8")


def _parts_of_file(
    path: Path, weights: Mapping[str, QuantisedWeight], storage: Storage
) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield from (
                parts_of(name, weights[name], storage).items() if name in weights else [(name, file.get_tensor(name))]
            )


def parts_of(name: str, weight: QuantisedWeight, storage: Storage) -> Parts:
    """The tensors that are stored of a weight, on the CPU."""
    return storage.parts(name, QuantisedWeight(weight.value_OI.cpu(), weight.scale_OG.cpu()))
