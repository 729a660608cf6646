"""The commands that run the service: serve, api, worker, demo and openapi."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer

from service.cli.terminal import print_json
from service.contract.errors import QueueUnavailable
from service.infrastructure.redis_client import connect
from service.settings import Settings
from service.tenants.api_keys import ApiKeys
from service.tenants.origins import bound_host

GRACE_SECONDS = 8  # for open requests when the API is stopped; event streams end at once

app = typer.Typer()


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
    """Start a server, slim a small model for one of its tasks, print the result and stop the server."""
    from service.cli.demo.run import run_demo

    run_demo(state)


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document."""
    from service.api.app import create_app

    print_json(create_app(Settings()).openapi())


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
