"""Brings the files of a model or an adapter to this machine and checks them, before anything of them is loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from service.contract.answers.report import Dequantised
from service.contract.errors import InvalidModel, NotFound
from service.contract.request.task import ModelSource
from service.models.families.sentence_encoder import MODULES, NESTED
from service.sources.access import HUB
from service.sources.adapter import check_mergeable
from service.sources.job_checkpoints import JobModel
from service.sources.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, GGUF, PATTERNS, is_wanted
from service.sources.readers import fetch_file, fetch_prefix, scheme_of
from worker.sources.dequantisation import dequantise
from worker.sources.validation import check_checkpoint, check_safetensors, read_json

# Called with bytes received and bytes in all.
OnBytes = Callable[[int, int], None]


def ignore_bytes(done: int, total: int) -> None:
    """The default of `on_bytes`."""


class FetchedModel(NamedTuple):
    """A checkpoint on this machine that can be loaded."""

    directory: Path
    fetched: Path  # the directory before it was dequantised; the same where it was not
    dequantised: Dequantised | None  # None where the weights are not quantised


def fetch_model(
    source: ModelSource,
    *,
    scratch: Path,
    cache: Path,
    roots: Sequence[Path] = (),
    on_bytes: OnBytes = ignore_bytes,
    job_model: JobModel | None = None,
) -> FetchedModel:
    """Fetch the model that a request names, as a checkpoint in safetensors without quantised weights.

    A GGUF file is converted once into `cache`; quantised weights are dequantised into `scratch`. `job_model` is the
    model of a job, where the request names one. Raises InvalidModel, UnsupportedFamily, ForbiddenPath or
    StorageUnavailable.
    """
    target = scratch / "source"
    try:
        if job_model:
            directory = job_model.download(target, on_bytes)
        else:
            directory = _fetch(source.uri, source.revision, target, roots, on_bytes)
    except NotFound as error:
        raise InvalidModel(error.message, param="model.uri") from error
    gguf = _gguf_file(directory)
    if gguf:
        from worker.sources.gguf import convert_gguf  # slow to import, and needed by few jobs

        directory = convert_gguf(gguf, cache / "gguf")
    weights = check_checkpoint(directory, has_adapter=source.adapter_uri is not None).weights
    plain, dequantised = directory, weights.dequantised
    if dequantised is not None:
        plain = dequantise(directory, weights, dequantised, scratch / "dequantised")
    return FetchedModel(plain, directory, dequantised)


def fetch_adapter(uri: str, *, scratch: Path, roots: Sequence[Path] = (), on_bytes: OnBytes = ignore_bytes) -> Path:
    """Fetch a LoRA adapter in safetensors; returns its local directory. Raises the errors of `fetch_model`."""
    try:
        directory = _fetch(uri, None, scratch / "adapter", roots, on_bytes)
        config = read_json(directory / ADAPTER_CONFIG)
        check_safetensors([directory / ADAPTER_WEIGHTS])
    except (NotFound, InvalidModel) as error:
        raise InvalidModel(f"adapter: {error.message}", param="model.adapter_uri") from error
    check_mergeable(config, uri)
    return directory


def _fetch(uri: str, revision: str | None, directory: Path, roots: Sequence[Path], on_bytes: OnBytes) -> Path:
    if scheme_of(uri) == HUB:
        return _fetch_from_hub(uri.removeprefix("hf://"), revision)
    if uri.endswith(GGUF):
        return fetch_file(uri, directory, roots=roots)
    return fetch_prefix(
        uri, directory, roots=roots, wanted=lambda name: name == CARD or is_wanted(name), on_bytes=on_bytes
    )


def _fetch_from_hub(repository: str, revision: str | None) -> Path:
    """Download from the hub; files in the hub client's own cache need no network."""
    try:
        directory = Path(
            snapshot_download(repository, revision=revision, allow_patterns=[*PATTERNS, CARD], ignore_patterns="*/*")
        )
        if (directory / MODULES).exists():
            snapshot_download(repository, revision=revision, allow_patterns=list(NESTED))
        return directory
    except GatedRepoError as error:
        raise NotFound(f"hf://{repository} is gated: set HF_TOKEN for the worker") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise NotFound(f"hf://{repository} at revision {revision or 'main'} does not exist") from error
    except LocalEntryNotFoundError as error:
        raise NotFound(f"hf://{repository} is not in the local cache, and the hub cannot be reached") from error


def _gguf_file(path: Path) -> Path | None:
    """The GGUF file to convert: the path itself, or the only one in a directory without safetensors."""
    if path.suffix == GGUF:
        return path
    found = sorted(path.glob(f"*{GGUF}"))
    if not found or any(path.glob("*.safetensors")):
        return None
    if len(found) > 1:
        raise InvalidModel(f"the directory holds {len(found)} GGUF files: name one of them", param="model.uri")
    return found[0]
