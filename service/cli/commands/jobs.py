"""The commands that use a server: submit, show, list, cancel and download a job, and apply its kept indices."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from service.cli.downloads import download_files
from service.cli.options.server import DEFAULT_URL, Url, server_at
from service.cli.row_files import place_of, row_uploads, task_in, with_rows
from service.cli.terminal import comparison_table, follow, print_json, print_whole, result_of, result_table
from service.contract.answers.job import JobStatus
from service.contract.errors import InvalidRequest
from service.reports.formatting import percent
from service.storage.artifact_names import MODEL, kept_name

KEPT = kept_name(MODEL)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="The id of a job.")]

app = typer.Typer()
out = Console()
err = Console(stderr=True)


@app.command()
def submit(
    file: Annotated[
        typer.FileText, typer.Argument(metavar="REQUEST", help="A job request as JSON; `-` reads standard input.")
    ],
    calibration: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file or URI with calibration rows in place of the request's."),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file or URI with evaluation rows in place of the request's."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it ends; exit with 1 unless it succeeds.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job and print its id. Files of rows are uploaded first, and the request names the data sets."""
    try:
        request = json.load(file)
    except ValueError as error:
        raise InvalidRequest(f"{file.name} is not JSON: {error}") from error
    given = (("calibration", calibration), ("evaluation", evaluation))
    places = {part: place_of(f"--{part}", text) for part, text in given if text is not None}
    if places:
        task_in(request)
    with server_at(url) as server:
        with row_uploads(server, err) as uploads:
            for part, place in places.items():
                request = with_rows(request, part, uploads.send(place))
            job = server.submit(request)
        out.print(job.id, highlight=False)
        if watch:
            err.print(result_table(result_of(follow(server, job, err))))


@app.command()
def show(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Print a job as JSON."""
    with server_at(url) as server:
        print_json(server.job(job_id).model_dump(mode="json"))


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Number of jobs to show.")] = 20,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag, as key:value.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    table = Table(box=None)
    for header in ("id", "status", "stage", "progress", "model"):
        table.add_column(header, no_wrap=header != "model", overflow="fold")
    with server_at(url) as server:
        jobs = server.jobs(limit, status and status.value, tag)
    for job in jobs:
        table.add_row(job.id, job.status, job.stage or "", percent(job.progress.fraction, 0), job.request.model.uri)
    out.print(table)


@app.command()
def compare(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB...", help="The ids of jobs that have succeeded.")],
    json_: Annotated[bool, typer.Option("--json", help="Print the answer of the server as JSON.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Compare jobs of one model and task: sizes and latency against the metric; `*` marks the frontier."""
    with server_at(url) as server:
        found = server.compare(job_ids)
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        print_whole(out, comparison_table(found))


@app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL) -> None:
    """Request the cancellation of a job and print its status."""
    with server_at(url) as server:
        out.print(server.cancel(job_id).status.value)


@app.command()
def download(
    job_id: JobId,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the files.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Download the files of a job and check their SHA-256. An interrupted download is continued."""
    with server_at(url) as server:
        written = download_files(server, job_id, directory, err)
    out.print(f"{written} files in {directory}", soft_wrap=True, highlight=False)


@app.command()
def apply(
    kept: Annotated[Path, typer.Argument(metavar="KEPT", help="The file kept.safetensors of a job.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the checkpoint.")],
    model: Annotated[str | None, typer.Option(help="Base model: directory or URI; default: the job's.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter: directory or URI; default: the job's.")] = None,
) -> NoReturn:
    """Make the checkpoint of a job from its kept indices and the base model."""
    given = [part for name, place in (("--model", model), ("--adapter", adapter)) if place for part in (name, place)]
    os.execv(
        sys.executable, [sys.executable, "-m", "worker.checkpoints.kept_indices", str(kept), str(directory), *given]
    )


@app.command("rebase-adapter")
def rebase_adapter(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="The directory of a LoRA adapter.")],
    job: Annotated[
        str,
        typer.Argument(metavar="JOB", help="The id of a job, its kept.safetensors, or the directory of its files."),
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the new adapter.")],
    model: Annotated[str | None, typer.Option(help="Dense model: directory or URI; default: the job's.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Cut a LoRA adapter of the dense model to fit the slim model of a job."""
    local = next((path for path in (Path(job) / KEPT, Path(job)) if path.is_file()), None)
    with tempfile.TemporaryDirectory() as scratch:
        kept = local or _download_kept(url, job, Path(scratch))
        given = [] if model is None else ["--model", model]
        command = ["-m", "worker.checkpoints.adapters.rebasing", str(adapter), str(kept), str(directory), *given]
        code = subprocess.run([sys.executable, *command], check=False).returncode
    raise typer.Exit(code)


def _download_kept(url: str, job_id: str, directory: Path) -> Path:
    """The kept indices of a job. Raises InvalidRequest where it has none."""
    with server_at(url) as server:
        for artifact in server.artifacts(job_id):
            if artifact.name == KEPT:
                return server.download(job_id, artifact, directory)
        raise InvalidRequest(f"job {job_id} has no {KEPT}: its status is {server.job(job_id).status}")
