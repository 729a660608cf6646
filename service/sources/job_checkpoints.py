"""`job://<id>`: the checkpoint that a job has left, as the model of the next one.

`job://<id>/<directory>` names one of several that a sweep has left, such as `model-0.3`; without it, `model`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.contract.errors import InvalidModel, NotFound
from service.contract.resources import StoredFile
from service.storage.keys import attempt_prefix
from service.storage.manifests import REPORT, committed_manifest
from service.storage.object_store import Storage

JOB = "job"
MODEL = "model"  # the directory of a job's own checkpoint
URI = re.compile(r"job://([0-9A-HJKMNP-TV-Z]{26})(?:/(model[a-z0-9.-]*))?/?")


@dataclass(frozen=True)
class JobModel:
    """The files of a checkpoint by their names in it; `prefix` is where the job's attempt has left its files."""

    job_id: str
    storage: Storage
    prefix: str
    directory: str
    files: Mapping[str, StoredFile]

    def content(self, name: str) -> bytes:
        """A small file. Raises NotFound."""
        return self.storage.get_bytes(self._key(name))

    def piece(self, name: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a file. Raises NotFound."""
        return b"".join(self.storage.stream(self._key(name), start, end))

    def report(self) -> bytes:
        """The report of the job that left it. Raises NotFound."""
        return self.storage.get_bytes(self.prefix + REPORT)

    def download(self, directory: Path, on_bytes: Callable[[int, int], None]) -> Path:
        """The directory, with every file in it, checked. Raises NotFound where the job is deleted meanwhile, and
        InvalidModel for a file that is not what the job has left."""
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
            raise NotFound(f"job {self.job_id} has left no {name}")
        return f"{self.prefix}{self.directory}/{name}"


def job_model(uri: str, storage: Storage, tenant: str) -> JobModel:
    """What `uri` names among the jobs of a tenant. Raises NotFound, for another tenant's job too."""
    match = URI.fullmatch(uri)
    manifest = committed_manifest(storage, tenant, match[1]) if match else None
    if match is None or manifest is None:
        raise NotFound(f"{uri} names no job of yours that has succeeded")
    directory = match[2] or MODEL
    start = f"{directory}/"
    files = {file.name.removeprefix(start): file for file in manifest.files if file.name.startswith(start)}
    if not files:
        raise NotFound(f"job {match[1]} has left no checkpoint {directory!r}")
    return JobModel(match[1], storage, attempt_prefix(tenant, match[1], manifest.attempt), directory, files)
