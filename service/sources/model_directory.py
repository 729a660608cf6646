"""The directory of a model, wherever it is: file, s3, gs, az, job or a hub. Each file is read at most once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Protocol, Self

from service.contract.errors import InvalidModel, StorageUnavailable
from service.contract.task import ModelSource
from service.families.table import ModelFamily, family_of
from service.sources.access import HUB, Access, blaming
from service.sources.hub import HubFiles
from service.sources.model_files import CONFIG, INDEX, SINGLE, TOKENIZER_CONFIG
from service.sources.readers import scheme_of
from service.sources.safetensors_header import DamagedHeader, Header, read_header


class Directory(Protocol):
    """The files of a directory. Methods raise NotFound, ForbiddenPath and StorageUnavailable."""

    def has(self, name: str) -> bool:
        """Whether the directory has a file of that name."""

    def content(self, name: str) -> bytes:
        """The bytes of a small file."""

    def header(self, name: str) -> Header:
        """The header of a safetensors file. Raises DamagedHeader."""


@dataclass(frozen=True)
class StoredDirectory:
    """A directory at file://, s3://, gs://, az:// or job://. It is listed once."""

    uri: str
    access: Access

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Name -> size in bytes of every file."""
        return self.access.sizes(self.uri)

    def has(self, name: str) -> bool:
        """Whether the listing has the name."""
        return name in self.sizes

    def content(self, name: str) -> bytes:
        """The bytes of a small file."""
        return self.access.content(self._uri(name))

    def header(self, name: str) -> Header:
        """The header of a safetensors file, compared with the size of the file."""
        header = read_header(lambda start, end: self.access.piece(self._uri(name), start, end))
        if header.file_bytes != self.sizes[name]:
            message = f"it has {self.sizes[name]} bytes, and its header describes {header.file_bytes}"
            raise DamagedHeader(message)
        return header

    def _uri(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"


class ModelDirectory:
    """The small files of the model of one request: config.json and the headers of the weights.

    A submission creates one and passes it from check to check, so that each file is read once. Properties raise
    InvalidModel, UnsupportedFamily, ForbiddenPath, and StorageUnavailable where the store or the hub does not answer.
    """

    def __init__(self, source: ModelSource, files: Directory) -> None:
        self.source = source
        self.files = files
        self._found: dict[str, bool] = {}  # name -> whether there is such a file; a hub is asked once for each

    @classmethod
    def of(cls, source: ModelSource, access: Access) -> Self:
        """The directory of a model. Nothing is read yet."""
        if scheme_of(source.uri) == HUB:
            return cls(source, HubFiles.of(source))
        return cls(source, StoredDirectory(source.uri, access))

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
        """The content of config.json."""
        return self._json(CONFIG)

    @cached_property
    def family(self) -> ModelFamily:
        """The model family that config.json names."""
        return family_of(self.config, self.source.uri)

    @cached_property
    def headers(self) -> list[Header]:
        """The headers of all weight files."""
        return [self._header(name) for name in self._weight_files()]

    @property
    def can_be_planned(self) -> bool:
        """Whether there are safetensors files, so that no worker has to convert the model first."""
        if self.is_on_hub:
            return self._has(CONFIG) and (self._has(SINGLE) or self._has(INDEX))
        return any(name.endswith(".safetensors") for name in self.names)

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


def read_json(files: Directory, name: str, uri: str, param: str) -> dict[str, Any]:
    """The object in a small JSON file of the directory `uri`, which the field `param` names. Raises InvalidModel."""
    try:
        with blaming(param, InvalidModel):
            content = json.loads(files.content(name))
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{uri} has a {name} that is not JSON", param=param) from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{uri} has a {name} that is not a JSON object", param=param)
    return content
