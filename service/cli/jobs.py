"""The commands that use a server: submit, show, list, cancel and download a job, and apply its kept indices."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from service.cli.client import Api
from service.cli.server_option import DEFAULT_URL, Url, server_at
from service.cli.terminal import follow, print_json, result_of, result_table
from service.contract.errors import InvalidRequest
from service.contract.job import JobStatus
from service.contract.resources import Artifact
from service.reports.formatting import percent

app = typer.Typer()
out = Console()
err = Console(stderr=True)


@app.command()
def submit(
    file: Annotated[typer.FileText, typer.Argument(help="A job request as JSON; `-` reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Wait until it ends; exit with 1 unless it succeeds.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job and print its id."""
    try:
        request = json.load(file)
    except ValueError as error:
        raise InvalidRequest(f"{file.name} is not JSON: {error}") from error
    with server_at(url) as server:
        job = server.submit(request)
        out.print(job.id, highlight=False)
        if watch:
            err.print(result_table(result_of(follow(server, job, err))))


@app.command()
def show(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Print a job as JSON."""
    with server_at(url) as server:
        print_json(server.job(job_id).model_dump(mode="json"))


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
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
def cancel(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Request the cancellation of a job and print its status."""
    with server_at(url) as server:
        out.print(server.cancel(job_id).status.value)


@app.command()
def download(job_id: str, directory: Path, url: Url = DEFAULT_URL) -> None:
    """Download the files of a job and check their SHA-256. An interrupted download is continued."""
    with server_at(url) as server:
        artifacts = server.artifacts(job_id)
        if not artifacts:
            raise InvalidRequest(f"job {job_id} has no files: its status is {server.job(job_id).status}")
        _download(server, job_id, artifacts, directory)
    out.print(f"{len(artifacts)} files in {directory}", soft_wrap=True, highlight=False)


@app.command()
def apply(
    kept: Annotated[Path, typer.Argument(help="The file kept.safetensors of a job.")],
    directory: Annotated[Path, typer.Argument(help="Directory for the checkpoint.")],
    model: Annotated[str | None, typer.Option(help="Base model: directory or URI; default: the job's.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter: directory or URI; default: the job's.")] = None,
) -> NoReturn:
    """Make the checkpoint of a job from its kept indices and the base model."""
    given = [part for name, place in (("--model", model), ("--adapter", adapter)) if place for part in (name, place)]
    os.execv(
        sys.executable, [sys.executable, "-m", "worker.checkpoints.kept_indices", str(kept), str(directory), *given]
    )


def _download(server: Api, job_id: str, artifacts: Sequence[Artifact], directory: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err) as progress:
        line = progress.add_task("", total=sum(artifact.size for artifact in artifacts))
        for artifact in artifacts:
            progress.update(line, description=artifact.name)
            server.download(job_id, artifact, directory)
            progress.advance(line, artifact.size)
