"""The directory of a model, wherever it is: file, s3, gs, az, job or a hub. Each file is read at most once."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Self

from service.contract.errors import InvalidModel, NotFound, StorageUnavailable
from service.contract.request.task import ModelSource
from service.models.families.family import ModelFamily
from service.models.families.sentence_encoder import read_sentence_encoder
from service.models.families.source_config import effective_config
from service.models.families.table import family_of, with_adapter_head
from service.sources.access import HUB, Access, blaming
from service.sources.adapter import Adapter, read_adapter
from service.sources.directories import Directory, StoredDirectory, read_json
from service.sources.hub import HubFiles
from service.sources.model_files import CONFIG, GENERATION_CONFIG, INDEX, SINGLE, TOKENIZER_CONFIG
from service.sources.readers import scheme_of
from service.sources.safetensors_header import DamagedHeader, Header, TensorShape

PARTS = 16  # of two tensors, which are compared
PART_BYTES = 64 * 2**10


class Place(NamedTuple):
    """Where a tensor is: its file, and the first byte of its values, where that is known."""

    file: str
    start: int | None
    tensor: TensorShape


class ModelDirectory:
    """The small files of the model of one request: config.json and the headers of the weights.

    A submission creates one and passes it from check to check, so that each file is read once. Properties raise
    InvalidModel, UnsupportedFamily, ForbiddenPath, and StorageUnavailable where the store or the hub does not answer.
    """

    def __init__(self, source: ModelSource, files: Directory, adapter_files: Directory | None = None) -> None:
        self.source = source
        self.files = files
        self._adapter_files = adapter_files
        self._found: dict[str, bool] = {}  # name -> whether there is such a file; a hub is asked once for each

    @classmethod
    def of(cls, source: ModelSource, access: Access) -> Self:
        """The directory of a model. Nothing is read yet."""
        adapter = source.adapter_uri
        adapter_files = None if adapter is None or scheme_of(adapter) == HUB else StoredDirectory(adapter, access)
        if scheme_of(source.uri) == HUB:
            return cls(source, HubFiles.of(source), adapter_files)
        return cls(source, StoredDirectory(source.uri, access), adapter_files)

    @property
    def is_on_hub(self) -> bool:
        """Whether the model is on a hub, which may be slow to answer or not answer at all."""
        return scheme_of(self.source.uri) == HUB

    @cached_property
    def names(self) -> set[str]:
        """The names of the files. A hub is not listed: only for a model that is not on a hub."""
        assert isinstance(self.files, StoredDirectory)
        with blaming("model.uri", InvalidModel):
            return set(self.files.sizes)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The config of the model that is slimmed; config.json may describe it as a part of another model."""
        return effective_config(self._json(CONFIG))

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """The content of generation_config.json, which the model must have."""
        return self._json(GENERATION_CONFIG)

    @cached_property
    def adapter(self) -> Adapter | None:
        """The adapter. None where the model has none, and for one on a hub, which the worker reads."""
        return None if self._adapter_files is None else read_adapter(self._adapter_files, self.source.adapter_uri or "")

    @cached_property
    def family(self) -> ModelFamily:
        """The model family that config.json names, with the head that the adapter brings."""
        family = family_of(self.config, self.source.uri)
        if self.adapter is None:
            return family
        return with_adapter_head(family, self.adapter.replaced, self.adapter.config.get("task_type"))

    @cached_property
    def headers(self) -> list[Header]:
        """The headers of all weight files."""
        return list(self._headers.values())

    @cached_property
    def _headers(self) -> dict[str, Header]:
        return {name: self._header(name) for name in self._weight_files()}

    def may_be_equal(self, first: str, second: str) -> bool:
        """Whether evenly spaced parts of two tensors of one shape hold the same bytes; true where they cannot be read.

        The worker compares all values. Small tensors are compared whole.
        """
        places = [self._place(first), self._place(second)]
        if any(place.start is None for place in places):
            return True
        return places[0].tensor == places[1].tensor and self._parts(places[0]) == self._parts(places[1])

    def _place(self, name: str) -> Place:
        file, header = next((file, header) for file, header in self._headers.items() if name in header.tensors)
        return Place(file, header.starts.get(name), header.tensors[name])

    def _parts(self, place: Place) -> list[bytes]:
        start, size = place.start or 0, place.tensor.size
        step = max(PART_BYTES, size // PARTS)
        with blaming("model.uri", InvalidModel):
            return [
                self.files.piece(place.file, start + offset, start + min(offset + PART_BYTES, size))
                for offset in range(0, size, step)
            ]

    @property
    def can_be_planned(self) -> bool:
        """Whether there are safetensors files, so that no worker has to convert the model first."""
        if self.is_on_hub:
            return self._has(CONFIG) and (self._has(SINGLE) or self._has(INDEX))
        return any(name.endswith(".safetensors") for name in self.names)

    def check_adapter(self) -> None:
        """Raise InvalidModel for an adapter that is no LoRA adapter; one on a hub is left to the worker."""
        _ = self.adapter

    def check_sentence_encoder(self) -> None:
        """Raise InvalidModel for an encoder without a head whose embeddings the worker does not compute."""
        if self.family.kind == "encoder":
            read_sentence_encoder(self._optional_json)

    def _optional_json(self, name: str) -> Any:
        """The content of a small JSON file; None where there is none."""
        try:
            return json.loads(self.files.content(name))
        except NotFound:
            return None
        except (ValueError, RecursionError) as error:
            raise InvalidModel(f"{self.source.uri} has a {name} that is not JSON", param="model.uri") from error

    def check_tokenizer(self) -> None:
        """Raise InvalidModel if the tokenizer needs code that comes with the model.

        Where the hub does not tell whether the model has a tokenizer_config.json, the worker checks.
        """
        try:
            is_there = self._has(TOKENIZER_CONFIG)
        except StorageUnavailable:
            if not self.is_on_hub:
                raise
            return
        if is_there and "auto_map" in self._json(TOKENIZER_CONFIG):
            message = (
                f"{self.source.uri} has a tokenizer with code of its own (`auto_map` in {TOKENIZER_CONFIG}), which is "
                "never run: give a checkpoint with a stock tokenizer"
            )
            raise InvalidModel(message, param="model.uri")

    def _has(self, name: str) -> bool:
        if name not in self._found:
            with blaming("model.uri", InvalidModel):
                self._found[name] = self.files.has(name)
        return self._found[name]

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self.files, name, self.source.uri, "model.uri")

    def _weight_files(self) -> list[str]:
        if self._has(SINGLE):
            return [SINGLE]
        if not self._has(INDEX):
            raise InvalidModel(f"{self.source.uri} has neither {SINGLE} nor {INDEX}", param="model.uri")
        weight_map = self._json(INDEX).get("weight_map")
        names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
        if not names or any(PurePosixPath(name).name != name or not self._has(name) for name in names):
            raise InvalidModel(f"{INDEX} does not name files of its own directory", param="model.uri")
        return names

    def _header(self, name: str) -> Header:
        try:
            with blaming("model.uri", InvalidModel):
                return self.files.header(name)
        except DamagedHeader as error:
            raise InvalidModel(f"{name} is damaged: {error}", param="model.uri") from error
