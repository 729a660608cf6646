"""Runs the demo: starts a server, submits two jobs over HTTP, stops the server, and prints and uses the results."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from service.cli.client import Api
from service.cli.demo.llama_cpp import speed
from service.cli.demo.request import RATIO, TASK, control_of, demo_request
from service.cli.demo.server import running_server
from service.cli.demo.table import demo_table
from service.cli.terminal import follow, result_of
from service.contract.answers.job import Job
from service.contract.answers.result import Result
from service.contract.errors import Conflict
from service.contract.ids import DEFAULT_TENANT
from service.contract.request.job_request import JobRequest
from service.reports.formatting import duration, percent, size
from service.settings import Settings
from service.storage.artifact_names import MODEL
from service.storage.keys import attempt_prefix
from service.storage.object_store import path_of

STEPS = {
    "slim": f"Removing {percent(RATIO, 0)} of a model with 135 million parameters, for the task `{TASK}`",
    "random": "Removing as much at random, for comparison",
}
MESSAGE = "Two left boots came in the box, and I would like my money back for them."
SNIPPET = """\
import json
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = Path({path!r})
task = json.loads((directory / "task.json").read_text())["tasks"][0]
model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(directory)
prompt = task["template"].format(text={message!r})
scores = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
tokens, offsets = task["answer_tokens"], task["label_offsets"]
print(max(tokens, key=lambda label: scores[tokens[label][0]] + offsets[label]))"""


def run_demo(state: Path | None = None) -> None:
    """Slim the demo's model, print the result and ask the slim model a question. All processes are stopped before the
    call returns.

    `state` is the directory for the server's files. By default it is a directory in the user's cache, from which the
    files of the last run are removed, but not the converted model. Raises InvalidModel, Conflict, QueueUnavailable,
    JobFailed or CalledProcessError.
    """
    console, start = Console(), time.monotonic()
    request = demo_request()
    requests = {"slim": request, "random": control_of(request)}
    with _exit_on_sigterm(), _locked(state or default_directory()) as directory:
        if state is None:
            _remove_last_run(directory)
        console.print(f"Starting Redis, the API and a worker over {directory}", soft_wrap=True)
        with running_server(directory) as url, closing(Api(url)) as server:
            jobs = {name: _run(server, url, name, request, console) for name, request in requests.items()}
        results = {name: result_of(job) for name, job in jobs.items()}
        console.print(demo_table(results["slim"], results["random"]))
        artifacts = artifacts_directory(jobs["slim"], directory)
        _show_exports(results["slim"], artifacts, console)
        _ask(artifacts / MODEL, console)
        console.print(f"\nThe demo took {duration(time.monotonic() - start)}.")


def _run(server: Api, url: str, name: str, request: JobRequest, console: Console) -> Job:
    """Submit a job and show its progress until it ends. Raises JobFailed unless it succeeds."""
    job = server.submit(request.model_dump(mode="json", exclude_defaults=True))
    console.print(f"POST {url}/jobs  ->  {job.links.self}", soft_wrap=True)
    console.print(STEPS[name])
    job = follow(server, job, console)
    result_of(job)
    return job


def default_directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "taskslim" / "demo"


def artifacts_directory(job: Job, directory: Path) -> Path:
    """The directory of the artifacts of a job of the demo."""
    artifacts = path_of(Settings(storage_url="", state=directory).artifacts_url)
    return artifacts / attempt_prefix(DEFAULT_TENANT, job.id, job.attempt)


def snippet(model: Path) -> str:
    """Python that loads the checkpoint and answers one question."""
    return SNIPPET.format(path=str(model), message=MESSAGE)


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


def _show_exports(result: Result, artifacts: Path, console: Console) -> None:
    """The files for llama.cpp, and how fast it writes with them, or the command that measures it."""
    for export in result.exports:
        for file in export.files:
            path = artifacts / file.name
            console.print(f"\n{file.dtype.upper()} file for llama.cpp, {size(file.bytes)}:\n{path}", soft_wrap=True)
            console.print(speed(path), soft_wrap=True)


def _ask(model: Path, console: Console) -> None:
    """Print Python code that asks the slim model a question, run it, and print the answer."""
    code = snippet(model)
    console.print("\nPython that asks the slim model:\n")
    console.print(code, markup=False, highlight=False, soft_wrap=True)
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    console.print(f"\nIts answer: {answer.stdout.strip()}")
