"""Digests of a job's inputs, and versions of the packages that compute with them."""

import hashlib
import json
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from service.rows.row import Row
from service.sources.model_files import is_wanted
from service.storage.object_store import digest_file
from worker.data.examples import Example

# The packages that decide what is measured.
COMPUTING = ("taskslim", "torch", "transformers", "tokenizers", "peft", "compressed-tensors")


def computing_versions() -> dict[str, str]:
    """Package -> version, of the packages that decide what is measured."""
    return {package: _version(package) for package in COMPUTING}


def versions() -> dict[str, str]:
    """Package -> version, of all that decides the bits of a checkpoint."""
    return {"python": platform.python_version(), "safetensors": _version("safetensors")} | computing_versions()


@cache
def _version(package: str) -> str:
    return version(package)  # it reads the metadata of the package: 5 ms


def digest_directory(directory: Path) -> str:
    """SHA-256 over the names and contents of the files that make up a model or an adapter."""
    paths = sorted(path for path in (*directory.glob("*"), *directory.glob("*/*")) if path.is_file())
    names = {str(path.relative_to(directory)): path for path in paths}
    return _digest([[name, digest_file(path)] for name, path in names.items() if is_wanted(name)])


def digest_rows(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows in their order."""
    return _digest([row.values for row in rows])


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(content: object) -> str:
    return digest_text(json.dumps(content, sort_keys=True, default=str))


def digest_examples(examples: Sequence[Example]) -> str:
    """sha256 over the tokens of every prompt and candidate and over the right answers, in the order of the rows."""
    content = hashlib.sha256()
    for example in examples:
        parts = [example.prompt, example.candidates, example.answer, example.text]
        parts += [example.second] if example.second else []
        content.update(json.dumps([*parts, example.target] if example.target else parts).encode())
    return content.hexdigest()
