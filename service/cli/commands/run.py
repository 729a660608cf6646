"""The command `taskslim run`: serves the slim model of a job with vLLM, llama.cpp or mlx-lm."""

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from service.cli.client import Api
from service.cli.downloads import download_files
from service.cli.options.server import DEFAULT_URL, Url, server_at
from service.cli.serving.questions import Question, question
from service.cli.serving.servers import SERVERS, command, served_model, serving_runtimes
from service.contract.answers.report import Report
from service.contract.answers.task_file import TaskFile
from service.contract.errors import InvalidRequest
from service.storage.artifact_names import REPORT, TASK_FILE

PORT = 8080

app = typer.Typer()
out = Console()
err = Console(stderr=True)


Runtime = Literal["vllm", "llama.cpp", "mlx-lm"]  # whose servers the command starts


@dataclass(frozen=True)
class Files:
    """The files of a job: their names, its report and its tasks."""

    names: Sequence[str]
    report: Report
    tasks: TaskFile


@app.command()
def run(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="The id of a job, or the directory that its files were downloaded to.")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTION...]", help="Further options of the server, after `--`.")
    ] = None,
    runtime: Annotated[
        Runtime | None, typer.Option(help="Default: one that is installed here and loads the model.")
    ] = None,
    start: Annotated[
        bool, typer.Option("--start", help="Download the files, if they are not here, and start the server.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the files of a job; by default its id.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server, on the loopback address.")] = PORT,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the command that serves the slim model of a job, and a request that asks its task; or start the server."""
    local = Path(job) if (Path(job) / REPORT).exists() else None
    place = local or directory or Path(job)
    if local is not None:
        files = _local_files(local)
    else:
        with server_at(url) as server:
            files = _remote_files(server, job)
            if start:
                download_files(server, job, place, err)
    chosen = runtime or _runtime_at_hand(files)
    model = served_model(chosen, files.report, files.names)
    questions = _questions(files, chosen)
    serve = [*command(chosen, model, place, port), *(options or [])]
    if not start:
        _print(serve, questions, port, None if local else shlex.join(["taskslim", "download", job, str(place)]))
        return
    err.print(shlex.join(serve), markup=False, highlight=False, soft_wrap=True)
    _start(chosen, serve)


def _questions(files: Files, runtime: str) -> dict[str, Question]:
    """Title -> the request that asks the task. Raises InvalidRequest."""
    if "ForCausalLM" not in files.report.result.verified.loader:
        raise InvalidRequest(
            f"a model of the class {files.report.result.verified.loader} has no server among {', '.join(SERVERS)}: the "
            "report's snippet runs it with transformers"
        )
    return {task.name: question(task, runtime, SERVERS[runtime].model_name) for task in files.tasks.tasks}


def _runtime_at_hand(files: Files) -> str:
    """A runtime that is installed here and loads the model, else one that loads it. Raises InvalidRequest."""
    loading = serving_runtimes(files.report, files.names)
    if not loading:
        served_model("vllm", files.report, files.names)  # says why not
    return next((name for name in loading if shutil.which(SERVERS[name].program)), loading[0])


def _start(runtime: str, serve: Sequence[str]) -> NoReturn:
    """Replace this process by the server. Raises InvalidRequest where it is not installed."""
    server = SERVERS[runtime]
    path = shutil.which(server.program)
    if path is None:
        raise InvalidRequest(f"{server.program} is not installed here: {server.install}, or give another --runtime")
    sys.stderr.flush()
    os.execv(path, [path, *serve[1:]])


def _print(serve: Sequence[str], questions: dict[str, Question], port: int, download: str | None) -> None:
    if download:
        out.print(download, markup=False, highlight=False, soft_wrap=True)
    out.print(shlex.join(serve), markup=False, highlight=False, soft_wrap=True)
    for title, asked in questions.items():
        lines = [f"# {title}: {note}" for note in asked.notes]
        if asked.body is not None:
            body = json.dumps(asked.body, ensure_ascii=False)
            lines += [
                f"curl -sS http://127.0.0.1:{port}{asked.path} -H 'Content-Type: application/json' \\",
                f"  -d {shlex.quote(body)}",
            ]
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


# --- the files of the job ------------------------------------------------------------------------------------------


def _local_files(directory: Path) -> Files:
    names = [str(path.relative_to(directory).as_posix()) for path in directory.rglob("*") if path.is_file()]
    return _parse(names, (directory / REPORT).read_bytes(), (directory / _task_file(names)).read_bytes())


def _remote_files(server: Api, job_id: str) -> Files:
    """The names of the job's files, and the contents of two. Raises InvalidRequest for a job without files."""
    artifacts = {artifact.name: artifact for artifact in server.artifacts(job_id)}
    if not artifacts:
        raise InvalidRequest(f"job {job_id} has no files: its status is {server.job(job_id).status}")
    names = [*artifacts]
    with tempfile.TemporaryDirectory() as scratch:
        paths = [server.download(job_id, artifacts[name], Path(scratch)) for name in (REPORT, _task_file(names))]
        report, tasks = (path.read_bytes() for path in paths)
    return _parse(names, report, tasks)


def _task_file(names: Sequence[str]) -> str:
    """The task file of the job's own model, in the checkpoint or in another format. Raises InvalidRequest."""
    found = min((name for name in names if name.endswith(f"/{TASK_FILE}")), key=len, default=None)
    if found is None:
        raise InvalidRequest(
            "the job has stored no model, only indices: make the checkpoint with `taskslim apply`, and use the snippet "
            "of the report"
        )
    return found


def _parse(names: Sequence[str], report: bytes, tasks: bytes) -> Files:
    try:
        return Files(names, Report.model_validate_json(report), TaskFile.model_validate_json(tasks))
    except ValidationError as error:
        raise InvalidRequest("the files were written by another version: install the version of the server") from error
