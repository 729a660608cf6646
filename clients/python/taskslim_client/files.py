"""Files of a job: downloaded in pieces, continued after an interruption, and compared with their SHA-256."""

import hashlib
from pathlib import Path
from typing import Any

import httpx

from taskslim_client.errors import DamagedFile, InvalidAnswer, NoAnswer
from taskslim_client.transport import check

CHUNK_BYTES = 2**20


def download(http: httpx.Client, job_id: str, file: dict[str, Any], directory: Path) -> Path:
    """Write a file of a job under `directory`, unless it is there already.

    Raises NoAnswer, Refused, DamagedFile, and InvalidAnswer for a name that leaves the directory.
    """
    target: Path = directory / file["name"]
    if not target.resolve().is_relative_to(directory.resolve()):
        raise InvalidAnswer(f"the server named a file that leaves the directory: {file['name']}")
    if target.exists() and digest(target) == file["sha256"]:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    try:
        _fetch(http, f"/jobs/{job_id}/artifacts/{file['name']}", partial, file["size"])
    except httpx.HTTPError as error:
        message = f"the download of {file['name']} was interrupted, and continues where it is repeated: {error}"
        raise NoAnswer(message) from error
    if digest(partial) != file["sha256"]:
        partial.unlink()
        raise DamagedFile(f"the SHA-256 of {file['name']} differs from the server's: download it again")
    partial.replace(target)
    return target


def _fetch(http: httpx.Client, path: str, partial: Path, size: int) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    if done == size and partial.exists():
        return
    headers = {"Range": f"bytes={done}-"} if 0 < done < size else {}
    with http.stream("GET", path, headers=headers) as answer:
        if answer.is_error:
            answer.read()
            check(answer)
        with partial.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                file.write(chunk)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()
