"""Directories of files, wherever they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from service.contract.errors import InvalidModel
from service.sources.access import Access, blaming
from service.sources.safetensors_header import DamagedHeader, Header, read_header


class Directory(Protocol):
    """The files of a directory. Methods raise NotFound, ForbiddenPath and StorageUnavailable."""

    def has(self, name: str) -> bool:
        """Whether the directory has a file of that name."""

    def content(self, name: str) -> bytes:
        """The bytes of a small file."""

    def header(self, name: str) -> Header:
        """The header of a safetensors file. Raises DamagedHeader."""

    def piece(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file."""


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
        header = read_header(lambda start, end: self.piece(name, start, end))
        if header.file_bytes != self.sizes[name]:
            message = f"it has {self.sizes[name]} bytes, and its header describes {header.file_bytes}"
            raise DamagedHeader(message)
        return header

    def piece(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file."""
        return self.access.piece(self._uri(name), start, end)

    def _uri(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"


def read_json(files: Directory, name: str, uri: str, param: str) -> dict[str, Any]:
    """The object in a small JSON file of the directory `uri`, which the field `param` names. Raises InvalidModel."""
    try:
        with blaming(param, InvalidModel):
            content = json.loads(files.content(name).decode())  # UTF-8 alone, which other readers suppose
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{uri} has a {name} that is not JSON", param=param) from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{uri} has a {name} that is not a JSON object", param=param)
    return content
