"""Checkpoints that jobs have stored, named `job://<id>` as the model of a later job.

`job://<id>/<directory>` names one of several that a sweep has stored, such as `model-0.3`. The default is `model`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.contract.answers.resources import StoredFile
from service.contract.errors import InvalidModel, NotFound
from service.contract.ids import ULID_PATTERN
from service.storage.artifact_names import MODEL, REPORT
from service.storage.keys import attempt_prefix
from service.storage.manifests import committed_manifest
from service.storage.object_store import Storage

JOB = "job"
URI = re.compile(rf"job://({ULID_PATTERN})(?:/(model[a-z0-9.-]*))?/?")


@dataclass(frozen=True)
class JobModel:
    """A checkpoint of a job: its files by their names in it, and the `prefix` of the attempt that stored them."""

    job_id: str
    storage: Storage
    prefix: str
    directory: str
    files: Mapping[str, StoredFile]

    def content(self, name: str) -> bytes:
        """The bytes of a small file. Raises NotFound."""
        return self.storage.get_bytes(self._key(name))

    def piece(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file. Raises NotFound."""
        return b"".join(self.storage.stream(self._key(name), start, end))

    def report(self) -> bytes:
        """The report of the job. Raises NotFound."""
        return self.storage.get_bytes(self.prefix + REPORT)

    def download(self, directory: Path, on_bytes: Callable[[int, int], None]) -> Path:
        """Download every file into the directory, and return the directory.

        Raises NotFound if the job is deleted meanwhile, and InvalidModel for a file whose SHA-256 is not the one in the
        manifest.
        """
        done, total = 0, sum(file.size for file in self.files.values())
        for name, file in self.files.items():
            content, path = hashlib.sha256(), directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as target:
                for piece in self.storage.stream(self._key(name)):
                    content.update(piece)
                    target.write(piece)
                    done += len(piece)
                    on_bytes(done, total)
            if content.hexdigest() != file.sha256:
                raise InvalidModel(f"{name} of job {self.job_id} is damaged in storage", param="model.uri")
        return directory

    def _key(self, name: str) -> str:
        if name not in self.files:
            raise NotFound(f"job {self.job_id} has no file {name}")
        return f"{self.prefix}{self.directory}/{name}"


def job_model(uri: str, storage: Storage, tenant: str) -> JobModel:
    """The checkpoint that a job:// URI names. Raises NotFound, also for a job of another tenant."""
    match = URI.fullmatch(uri)
    manifest = committed_manifest(storage, tenant, match[1]) if match else None
    if match is None or manifest is None:
        raise NotFound(f"{uri} names no job of this tenant that has succeeded")
    directory = match[2] or MODEL
    start = f"{directory}/"
    files = {file.name.removeprefix(start): file for file in manifest.files if file.name.startswith(start)}
    if not files:
        raise NotFound(f"job {match[1]} has no checkpoint {directory!r}")
    return JobModel(match[1], storage, attempt_prefix(tenant, match[1], manifest.attempt), directory, files)
