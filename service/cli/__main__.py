"""The command `taskslim`: run the service, or send requests to one.

It never imports torch: commands that need it start `python -m worker`.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from service.cli import keys as key_commands
from service.cli import scores
from service.cli.client import Api
from service.cli.server_option import DEFAULT_URL, Url, server_at
from service.cli.terminal import describe, job_bar, result_table
from service.contract.errors import InvalidRequest, QueueUnavailable, TaskslimError
from service.contract.job import Job, JobStatus
from service.contract.resources import Artifact
from service.infrastructure.redis_client import connect
from service.reports.formatting import percent
from service.settings import Settings
from service.tenants.api_keys import ApiKeys
from service.tenants.origins import bound_host

GRACE_SECONDS = 8  # for open requests when the API is stopped; event streams end at once

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run the Taskslim service, or use one.",
)
app.add_typer(key_commands.app, name="keys")
app.add_typer(scores.app, name="scores")
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line. A TaskslimError ends it with its message and exit code 1."""
    try:
        app()
    except TaskslimError as error:
        _fail(error.message)


# --- run the service -----------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    state: Annotated[Path | None, typer.Option(help="Directory for the files of Redis, artifacts and caches.")] = None,
) -> None:
    """Run the API and one worker, and an embedded Redis unless SLIM_REDIS_URL is set."""
    from service.infrastructure.logs import configure
    from service.infrastructure.supervisor import serve as run

    configure("serve")
    run(_settings(host=host, port=port, state=state and state.resolve()))


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the API with the Redis of SLIM_REDIS_URL and the storage of SLIM_STORAGE_URL."""
    import uvicorn

    from service.api.app import create_app
    from service.infrastructure import tracing
    from service.infrastructure.logs import configure

    settings = _settings(host=host, port=port)
    if not settings.redis_url:
        raise QueueUnavailable("SLIM_REDIS_URL is not set: set it, or run `taskslim serve`, which starts a Redis")
    configure("api")
    tracing.configure("api")
    settings = settings.model_copy(update={"host": _open_address(settings)})
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@app.command()
def worker(burst: Annotated[bool, typer.Option("--burst", help="Exit when the queue is empty.")] = False) -> NoReturn:
    """Run one worker with the Redis of SLIM_REDIS_URL and the storage of SLIM_STORAGE_URL."""
    os.execv(sys.executable, [sys.executable, "-m", "worker", *(["--burst"] if burst else [])])


@app.command()
def demo(
    state: Annotated[Path | None, typer.Option(help="Keep the server's files here.")] = None,
) -> None:
    """Start a server, slim a small model for review sentiment, print the result and stop the server."""
    from service.cli.demo.run import run_demo

    run_demo(state)


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document."""
    from service.api.app import create_app

    _print_json(create_app(Settings()).openapi())


# --- send requests -------------------------------------------------------------------------------------------------


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
            _follow(server, job)


@app.command()
def show(job_id: str, url: Url = DEFAULT_URL) -> None:
    """Print a job as JSON."""
    with server_at(url) as server:
        _print_json(server.job(job_id).model_dump(mode="json"))


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


# --- implementation ------------------------------------------------------------------------------------------------


def _settings(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _open_address(settings: Settings) -> str:
    """The address to listen on: loopback while there is no API key. Registers the key of SLIM_API_KEY, if set."""
    with connect(settings.redis_url) as redis:
        keys = ApiKeys(redis)
        if settings.api_key is not None:
            keys.adopt(settings.api_key.get_secret_value())
        host = bound_host(settings.host, keys)
    log = structlog.get_logger()
    if host != settings.host:
        log.warning("no API key is configured: listening on loopback only", requested=settings.host)
    log.info("listening", url=f"http://{host}:{settings.port}")
    return host


def _follow(server: Api, job: Job) -> None:
    with job_bar(err) as bar:
        line = bar.add_task(describe(job), total=1.0)
        for now in server.watch(job):
            bar.update(line, description=describe(now), completed=now.progress.fraction)
            job = now
    if job.result is not None:
        err.print(result_table(job.result))
    if job.status is not JobStatus.succeeded:
        reason = f": {job.error.message} ({job.error.code})" if job.error else ""
        _fail(f"the job {job.status}{reason}")


def _download(server: Api, job_id: str, artifacts: Sequence[Artifact], directory: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err) as progress:
        line = progress.add_task("", total=sum(artifact.size for artifact in artifacts))
        for artifact in artifacts:
            progress.update(line, description=artifact.name)
            server.download(job_id, artifact, directory)
            progress.advance(line, artifact.size)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fail(message: str) -> NoReturn:
    err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
