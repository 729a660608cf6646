"""Reads the files that a request of a tenant names, where the tenant is allowed to."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.errors import ForbiddenPath, InvalidData, InvalidModel, NotFound
from service.sources.job_checkpoints import JOB, JobModel, job_model
from service.sources.model_files import GGUF
from service.sources.readers import LOCAL, file_size, list_sizes, locate, read_bytes, read_range, scheme_of
from service.sources.uri_policy import UriPolicy, canonical
from service.storage.object_store import Storage

HUB = "hf"
DATASET = "dataset"
RETRY_SECONDS = 5  # a client waits for the answer


@dataclass(frozen=True)
class Access:
    """The files that a tenant may read, for the time of one request.

    Local paths must be allowed at all (`local_paths`) and lie under one of the `roots` (empty: anywhere). The URIs of a
    caller who is not trusted with everything must satisfy `uri_policy`. Models are pushed to places under one of the
    `outputs` alone (None: anywhere but in the deployment's own store).
    """

    storage: Storage
    tenant: str
    local_paths: bool
    roots: Sequence[Path] = ()
    uri_policy: UriPolicy | None = None
    outputs: Sequence[str] | None = None
    _job_models: dict[str, JobModel] = field(default_factory=dict, init=False, repr=False, compare=False)

    def path(self, uri: str) -> Path:
        """The local path of a file:// URI. Raises ForbiddenPath, and NotFound if the path does not exist."""
        return self.locate(uri)[0]

    def locate(self, uri: str) -> tuple[Path, os.stat_result]:
        """(path, its status) of a file:// URI. Raises as `path`."""
        if not self.local_paths:
            message = "this deployment allows no local paths: name an object store, or have SLIM_LOCAL_ROOTS set"
            raise ForbiddenPath(message)
        path, found = locate(uri, self.roots)
        if self.uri_policy is not None:
            UriPolicy(self.uri_policy.own).check(path.as_uri())
        return path, found

    def check(self, uri: str) -> None:
        """Raise ForbiddenPath for a URI that `uri_policy` forbids. Local paths and jobs are checked when read."""
        if self.uri_policy is not None and scheme_of(uri) not in (LOCAL, JOB):
            self.uri_policy.check(uri)

    def check_output(self, uri: str) -> None:
        """Raise ForbiddenPath for a URI that the caller must not push a model to."""
        UriPolicy(self.storage.url).check(uri)
        if self.outputs is not None and not any(canonical(uri).startswith(canonical(each)) for each in self.outputs):
            allowed = f"under one of {', '.join(self.outputs)}" if self.outputs else "to no place"
            raise ForbiddenPath(f"this deployment pushes models of callers with a key {allowed} (SLIM_OUTPUT_URIS)")

    def job_model(self, uri: str) -> JobModel:
        """The checkpoint that a job:// URI names. Its manifest is read once. Raises NotFound."""
        uri = uri.rstrip("/")
        if uri not in self._job_models:
            self._job_models[uri] = job_model(uri, self.storage, self.tenant)
        return self._job_models[uri]

    def sizes(self, uri: str) -> dict[str, int]:
        """Name -> size in bytes of the files in a directory, or of the one file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            return {name: file.size for name, file in self.job_model(uri).files.items()}
        if scheme_of(uri) != LOCAL and uri.endswith(GGUF):
            return {uri.rpartition("/")[2]: file_size(uri, retry_seconds=RETRY_SECONDS)}
        if scheme_of(uri) != LOCAL:
            return list_sizes(uri, retry_seconds=RETRY_SECONDS)
        path, found = self.locate(uri)
        if not stat.S_ISDIR(found.st_mode):
            return {path.name: found.st_size}
        with os.scandir(path) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}

    def content(self, uri: str) -> bytes:
        """The bytes of a small file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            parent, _, name = uri.rpartition("/")
            return self.job_model(parent).content(name)
        if scheme_of(uri) == LOCAL:
            return self.path(uri).read_bytes()
        return read_bytes(uri, retry_seconds=RETRY_SECONDS)

    def piece(self, uri: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file. Raises NotFound, ForbiddenPath."""
        if scheme_of(uri) == JOB:
            parent, _, name = uri.rpartition("/")
            return self.job_model(parent).piece(name, start, end)
        if scheme_of(uri) == LOCAL:
            uri = self.path(uri).as_uri()
        return read_range(uri, start, end, retry_seconds=RETRY_SECONDS)


@contextmanager
def blaming(param: str, missing: type[InvalidData] | type[InvalidModel]) -> Iterator[None]:
    """Raise NotFound as `missing`, and name the field `param` in this error and in ForbiddenPath."""
    try:
        yield
    except NotFound as error:
        raise missing(error.message, param=param) from error
    except ForbiddenPath as error:
        raise ForbiddenPath(error.message, param=param) from error
    except PermissionError as error:
        raise missing(f"{error.filename} cannot be read", param=param) from error
