"""Pushes the slim model to `output.uri`: a prefix of an object store, or a repository of a hub.

The files of the checkpoint, its card included, are at the root; those of other formats and precisions are in
directories with their names. Credentials are those of the worker's environment. A prefix is used by one job:
`taskslim-job.json`, which is written first, names it, so that another attempt of the same job goes on and nothing else
is overwritten.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import structlog
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError

from service.contract.answers.result import Pushed, PushProblem
from service.contract.errors import NotFound, PushFailed, StorageUnavailable
from service.contract.options import EXPORTS, Precision
from service.sources.access import HUB
from service.sources.readers import scheme_of
from service.storage.artifact_names import MODEL, export_name, quantised_name
from service.storage.object_store import Storage
from worker.reporting.artifacts import output_directory
from worker.stages.context import JobContext

MARK = "taskslim-job.json"
RETRY_SECONDS = 60

log = structlog.get_logger()


def check(context: JobContext) -> None:
    """Raise PushFailed, before any work, where it is plain that the model cannot be pushed."""
    uri = context.job.request.output.uri
    if uri is None:
        return
    if scheme_of(uri) == HUB:
        if get_token() is None:
            message = "the worker has no token for the hub: set HF_TOKEN in its environment, or leave `output.uri` out"
            raise PushFailed(message, param="output.uri")
        return
    with _failing(uri):
        _check_unused(Storage(uri, retry_seconds=RETRY_SECONDS), context.job.id, uri)


def push(context: JobContext, uri: str) -> Pushed:
    """Push the model. What fails is in the answer, because the files of the job are not affected."""
    files, commit = dict(_files(output_directory(context))), None
    try:
        if scheme_of(uri) == HUB:
            commit = _to_hub(uri, files)
        else:
            _to_store(context, uri, files)
    except PushFailed as error:
        # without a traceback, which may hold the token
        log.warning("model not pushed", reason=error.message, **context.job.log_fields)
        return Pushed(uri=uri, files=0, bytes=0, error=PushProblem(code=error.code, message=error.message))
    return Pushed(uri=uri, files=len(files), bytes=sum(path.stat().st_size for path in files.values()), commit=commit)


def _files(output: Path) -> Iterator[tuple[str, Path]]:
    """(name at the destination, path) of the checkpoint's files and of those of other formats and precisions."""
    starts = {MODEL: ""} | {export_name(format): f"{format}/" for format in EXPORTS}
    starts |= {quantised_name(precision): f"{precision}/" for precision in Precision}
    for name, start in starts.items():
        directory = output / name
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                yield f"{start}{path.relative_to(directory).as_posix()}", path


# --- object stores -------------------------------------------------------------------------------------------------


def _mark_of(job_id: str) -> bytes:
    return json.dumps({"job_id": job_id}).encode()


def _check_unused(store: Storage, job_id: str, uri: str) -> None:
    """Raise PushFailed for a prefix with files of anything but this job."""
    if store.exists(MARK) and store.get_bytes(MARK) == _mark_of(job_id):
        return
    if store.list(""):
        raise PushFailed(f"{uri} is not empty: name a prefix of its own for each job", param="output.uri")


def _to_store(context: JobContext, uri: str, files: dict[str, Path]) -> None:
    """Write the files, the mark first. Raises PushFailed."""
    total, done = sum(path.stat().st_size for path in files.values()), 0
    with _failing(uri):
        store = Storage(uri, retry_seconds=RETRY_SECONDS)
        _check_unused(store, context.job.id, uri)
        store.put_bytes(_mark_of(context.job.id), MARK)
        for name, path in files.items():
            store.put_file(path, name)
            done += path.stat().st_size
            context.on_bytes(done, total)


# --- the hub -------------------------------------------------------------------------------------------------------


def _to_hub(uri: str, files: dict[str, Path]) -> str:
    """Commit the files to a repository, which is made as a private one if there is none; the commit.

    Raises PushFailed.
    """
    repository = uri.removeprefix(f"{HUB}://")
    hub = HfApi(token=get_token())
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    with _failing(uri):
        hub.create_repo(repository, private=True, exist_ok=True)
        return hub.create_commit(repository, operations, commit_message="Add the slim model").oid


@contextmanager
def _failing(uri: str) -> Iterator[None]:
    """Raise what goes wrong at the destination as PushFailed."""
    try:
        yield
    except (StorageUnavailable, NotFound) as error:
        cause = type(error.__cause__).__name__ if error.__cause__ else error.message
        raise PushFailed(_message(uri, cause), param="output.uri") from error
    except (httpx2.HTTPError, OSError, RuntimeError, HFValidationError) as error:  # the last but one of its uploader
        status = getattr(getattr(error, "response", None), "status_code", None)
        cause = type(error).__name__ if status is None else f"the hub answered {status}"
        raise PushFailed(_message(uri, cause), param="output.uri") from error


def _message(uri: str, cause: str) -> str:
    return (
        f"the model cannot be pushed to {uri} ({cause}): give the worker's credentials the right to write there, or "
        "download the files of the job"
    )
