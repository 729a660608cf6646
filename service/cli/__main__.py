"""`taskslim`: run the service, or use one. Never imports torch: what needs it runs as `python -m worker`."""

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
from service.cli.server_option import HERE, Url, server_at
from service.cli.terminal import describe, job_bar, result_table
from service.contract.errors import InvalidRequest, QueueUnavailable, TaskslimError
from service.contract.job import Job, JobStatus
from service.contract.resources import Artifact
from service.infrastructure.redis_client import connect
from service.settings import Settings
from service.tenants.api_keys import ApiKeys
from service.tenants.origins import bound_host

GRACE_SECONDS = 8  # for requests in flight when the API is stopped; event streams end at once

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(key_commands.app, name="keys")
app.add_typer(scores.app, name="scores")
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line; an error of ours is its message and exit code 1."""
    try:
        app()
    except TaskslimError as error:
        _fail(error.message)


# --- run the service -----------------------------------------------------------------------------------------------


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    state: Annotated[Path | None, typer.Option(help="Directory of Redis' files, artifacts and caches.")] = None,
) -> None:
    """Run everything on this machine: API, one worker and, without SLIM_REDIS_URL, a Redis of its own."""
    from service.infrastructure.logs import configure
    from service.infrastructure.supervisor import serve as run

    configure("serve")
    run(_settings(host=host, port=port, state=state and state.resolve()))


@app.command()
def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run the API alone, against SLIM_REDIS_URL and SLIM_STORAGE_URL."""
    import uvicorn

    from service.api.app import create_app
    from service.infrastructure import tracing
    from service.infrastructure.logs import configure

    settings = _settings(host=host, port=port)
    if not settings.redis_url:
        raise QueueUnavailable("the API needs SLIM_REDIS_URL; `taskslim serve` brings a Redis of its own")
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
def worker(burst: Annotated[bool, typer.Option("--burst", help="End when the queue is empty.")] = False) -> NoReturn:
    """Run one worker, against SLIM_REDIS_URL and SLIM_STORAGE_URL."""
    os.execv(sys.executable, [sys.executable, "-m", "worker", *(["--burst"] if burst else [])])


@app.command()
def demo(state: Annotated[Path | None, typer.Option(help="Keep what the server writes here.")] = None) -> None:
    """Slim a real model for review sentiment, end to end, with a server of its own."""
    from service.cli.demo.run import run_demo

    run_demo(state)


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document."""
    from service.api.app import create_app

    _print_json(create_app(Settings()).openapi())


# --- use one -------------------------------------------------------------------------------------------------------


@app.command()
def submit(
    file: Annotated[typer.FileText, typer.Argument(help="A request as JSON; `-` reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job; exit with 1 unless it succeeds.")] = False,
    url: Url = HERE,
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
def show(job_id: str, url: Url = HERE) -> None:
    """Print a job as JSON."""
    with server_at(url) as server:
        _print_json(server.job(job_id).model_dump(mode="json"))


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs of this status.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag, key:value.")] = None,
    url: Url = HERE,
) -> None:
    """List the newest jobs."""
    table = Table(box=None)
    for header in ("id", "status", "stage", "progress", "model"):
        table.add_column(header, no_wrap=header != "model", overflow="fold")
    with server_at(url) as server:
        jobs = server.jobs(limit, status and status.value, tag)
    for job in jobs:
        share = f"{job.progress.fraction:.0%}"
        table.add_row(job.id, job.status, job.stage or "", share, job.request.model.uri)
    out.print(table)


@app.command()
def cancel(job_id: str, url: Url = HERE) -> None:
    """Cancel a job and print its status."""
    with server_at(url) as server:
        out.print(server.cancel(job_id).status.value)


@app.command()
def download(job_id: str, directory: Path, url: Url = HERE) -> None:
    """Download a job's files, going on where an earlier download stopped, and check each one's SHA-256."""
    with server_at(url) as server:
        artifacts = server.artifacts(job_id)
        if not artifacts:
            raise InvalidRequest(f"job {job_id} has no files: it is {server.job(job_id).status}")
        _download(server, job_id, artifacts, directory)
    out.print(f"{len(artifacts)} files in {directory}", soft_wrap=True, highlight=False)


@app.command()
def apply(
    kept: Annotated[Path, typer.Argument(help="kept.safetensors of a job.")],
    directory: Annotated[Path, typer.Argument(help="Where the checkpoint goes.")],
    model: Annotated[str | None, typer.Option(help="Directory or URI of the base model; default: the job's.")] = None,
    adapter: Annotated[str | None, typer.Option(help="The same of the adapter that was merged.")] = None,
) -> NoReturn:
    """Make a job's checkpoint from the indices that it kept and its base model."""
    given = [part for name, place in (("--model", model), ("--adapter", adapter)) if place for part in (name, place)]
    os.execv(
        sys.executable, [sys.executable, "-m", "worker.checkpoints.kept_indices", str(kept), str(directory), *given]
    )


# --- how -----------------------------------------------------------------------------------------------------------


def _settings(**given: Any) -> Settings:
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _open_address(settings: Settings) -> str:
    """The address to listen on: loopback as long as no key guards the door. Takes up the deployment's first key."""
    with connect(settings.redis_url) as redis:
        keys = ApiKeys(redis)
        if settings.api_key is not None:
            keys.adopt(settings.api_key.get_secret_value())
        host = bound_host(settings.host, keys)
    log = structlog.get_logger()
    if host != settings.host:
        log.warning("no API key is configured: listening on loopback only", asked=settings.host)
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
