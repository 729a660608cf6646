"""Reads a GGUF file of an architecture that transformers does not read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from torch import Tensor

ARCHITECTURES = ("deci", "openelm")  # those that transformers does not read


class GgufModel:
    """The metadata and the tensors of a file."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.architecture = str(reader.fields["general.architecture"].contents())
        self._metadata = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    @property
    def turns_halves(self) -> bool:
        """Whether rotary positions turn the dimensions i and i + S / 2, and not neighbouring ones."""
        return self.architecture == "openelm"

    def number(self, key: str, layer: int | None = None) -> Any:
        """A number of the architecture, that of a layer where each has its own; None where there is none."""
        found = self._metadata.get(f"{self.architecture}.{key}")
        return found[layer] if isinstance(found, list) and layer is not None else found

    def tensor(self, name: str) -> Tensor | None:
        """A tensor in float32; None where there is none."""
        found = self._tensors.get(name)
        return None if found is None else torch.tensor(dequantize(found.data, found.tensor_type)).float()

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """The tensors of a layer by their names in it."""
        start = f"blk.{index}."
        names = [name for name in self._tensors if name.startswith(start)]
        found = {name.removeprefix(start): self.tensor(name) for name in names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def is_only_reader(path: Path) -> bool:
    """Whether transformers does not read the architecture of the file."""
    return GgufModel(path).architecture in ARCHITECTURES
