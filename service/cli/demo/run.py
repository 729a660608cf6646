"""Runs the demo: starts a server, submits one job over HTTP, prints the result and stops the server."""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from service.cli.client import Api
from service.cli.demo.request import LABELS, RATIO, TEMPLATE, demo_request
from service.cli.demo.server import running_server
from service.cli.terminal import follow, result_of, result_table
from service.contract.errors import Conflict
from service.contract.ids import DEFAULT_TENANT
from service.contract.job import Job
from service.contract.result import Result
from service.reports.formatting import percent
from service.settings import Settings
from service.storage.artifact_names import MODEL
from service.storage.keys import attempt_prefix
from service.storage.object_store import path_of

REMOVAL = f"Removing {percent(RATIO, 0)} of the feed-forward neurons of a model with 135 million parameters"
SNIPPET = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({path!r})
model = AutoModelForCausalLM.from_pretrained({path!r})
scores = model(**tokenizer({prompt!r}, return_tensors="pt")).logits[0, -1]
print(max({words!r}, key=lambda word: scores[tokenizer.encode(word)[0]]))"""


def run_demo(state: Path | None = None) -> None:
    """Slim the demo's model and print the result. All processes are stopped before the call returns.

    `state` is the directory for the server's files. By default it is a directory in the user's cache, from which the
    files of the last run are removed, but not the converted model. Raises InvalidModel, Conflict, QueueUnavailable or
    JobFailed.
    """
    console = Console()
    request = demo_request()
    with _exit_on_sigterm(), _locked(state or default_directory()) as directory:
        if state is None:
            _remove_last_run(directory)
        console.print(f"Starting Redis, the API and a worker over {directory}", soft_wrap=True)
        with running_server(directory) as url, closing(Api(url)) as server:
            job = server.submit(request.model_dump(mode="json", exclude_defaults=True))
            console.print(f"POST {url}/jobs  ->  {job.links.self}", soft_wrap=True)
            console.print(REMOVAL)
            job = follow(server, job, console)
        _show(result_of(job), model_directory(job, directory), console)


def default_directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "taskslim" / "demo"


def model_directory(job: Job, directory: Path) -> Path:
    """The directory of the slim checkpoint of the demo's job."""
    artifacts = path_of(Settings(storage_url="", state=directory).artifacts_url)
    return artifacts / attempt_prefix(DEFAULT_TENANT, job.id, job.attempt) / MODEL


def snippet(model: Path) -> str:
    """Five lines of Python that load the checkpoint and classify one review."""
    prompt = TEMPLATE.format(text="Even my mother liked it.")
    return SNIPPET.format(path=str(model), prompt=prompt, words=[f" {word}" for word in LABELS.values()])


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Within the block, SIGTERM raises SystemExit, so that all processes are stopped."""

    def exit_process(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, exit_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _locked(directory: Path) -> Iterator[Path]:
    """The directory, created if it is missing, and locked against a second demo. Raises Conflict."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another demo is running in {directory}: choose another directory with --state") from error
        yield directory.resolve()


def _remove_last_run(directory: Path) -> None:
    for name in ("redis", "artifacts"):
        shutil.rmtree(directory / name, ignore_errors=True)


def _show(result: Result, model: Path, console: Console) -> None:
    console.print(result_table(result))
    console.print(f"\nThe slim checkpoint is in\n{model}\n\nLoad it:\n", soft_wrap=True)
    console.print(snippet(model), markup=False, highlight=False, soft_wrap=True)
