"""Reads the small files of a model on a hub: from the local cache of the hub's client, else over the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2
from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from service.contract.errors import InvalidModel, NotFound, StorageUnavailable
from service.contract.request.task import ModelSource
from service.sources.model_files import ADAPTER_CONFIG, CONFIG
from service.sources.safetensors_header import DamagedHeader, Header, TensorShape, file_size, read_header

TIMEOUT_SECONDS = 5  # a client waits for the answer


class NotShown(InvalidModel):
    """The hub does not show the model to this process. A worker may have another token."""


@dataclass(frozen=True)
class HubFiles:
    """The files of one revision of a repository."""

    repository: str
    revision: str | None

    @classmethod
    def of(cls, source: ModelSource) -> Self:
        """The files of an hf:// model."""
        return cls(source.uri.removeprefix("hf://"), source.revision)

    def has(self, name: str) -> bool:
        """Whether the repository has the file."""
        with self._translated():
            return self._cached(name) is not None or HfApi().file_exists(self.repository, name, revision=self.revision)

    def content(self, name: str) -> bytes:
        """The bytes of a small file, which is then in the local cache. Raises NotFound."""
        return self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        """The path of a file in the local cache, downloaded if it is not there. Raises NotFound."""
        with self._translated():
            return self._cached(name) or self._downloaded(name)

    def commit(self) -> str:
        """The commit that the revision names, from the local cache, else from the hub."""
        with self._translated():
            for name in (CONFIG, ADAPTER_CONFIG):
                if cached := self._cached(name):
                    return cached.parent.name
            found = HfApi().repo_info(self.repository, revision=self.revision, timeout=TIMEOUT_SECONDS)
        return str(found.sha)

    def header(self, name: str) -> Header:
        """The header of a safetensors file. Raises DamagedHeader."""
        with self._translated():
            cached = self._cached(name)
            return _header_of(cached) if cached else self._remote_header(name)

    def piece(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file that is in the local cache; none of another one."""
        cached = self._cached(name)
        return _read(cached, start, end) if cached else b""

    def _cached(self, name: str) -> Path | None:
        found = try_to_load_from_cache(self.repository, name, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def _downloaded(self, name: str) -> Path:
        # A hub that cannot be reached fails here at once; the download would retry for half a minute.
        HfApi().file_exists(self.repository, name, revision=self.revision)
        return Path(hf_hub_download(self.repository, name, revision=self.revision, etag_timeout=TIMEOUT_SECONDS))

    def _remote_header(self, name: str) -> Header:
        found = HfApi().parse_safetensors_file_metadata(
            self.repository, name, revision=self.revision, timeout=TIMEOUT_SECONDS
        )
        tensors = {name: TensorShape(str(info.dtype), tuple(info.shape)) for name, info in found.tensors.items()}
        return Header(tensors, file_size(tensors), found.metadata)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the errors of the hub's client as NotShown, NotFound, DamagedHeader or StorageUnavailable."""
        model = f"hf://{self.repository}"
        try:
            yield
        except GatedRepoError as error:
            raise NotShown(f"{model} is gated: set HF_TOKEN for the service", param="model.uri") from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise self._unreachable() from error
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            message = f"{model} at revision {self.revision or 'main'} does not exist"
            raise NotShown(message, param="model.uri") from error
        except EntryNotFoundError as error:
            raise NotFound(f"{model} has no file that a plan needs") from error
        except SafetensorsParsingError as error:
            raise DamagedHeader(str(error)) from error
        except (httpx2.HTTPError, ConnectionError) as error:
            raise self._unreachable() from error

    def _unreachable(self) -> StorageUnavailable:
        return StorageUnavailable(f"hf://{self.repository} is not in the local cache, and the hub does not answer")


def _header_of(path: Path) -> Header:
    return read_header(lambda start, end: _read(path, start, end))


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)
