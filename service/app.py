"""The application: its clients, its routes, its one way to say what went wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from service.auth import Keys
from service.connections import connect, connect_async
from service.queue import JobQueue
from service.reconciler import reconciling
from service.records import Records
from service.routes import artifacts, catalog, events, jobs, operations, pages
from service.routes.dependencies import State
from service.routes.description import describe
from service.routes.guards import BodyLimit, RequestIdentity
from service.routes.problems import install
from service.settings import Settings
from service.storage import Storage

STORAGE_RETRY_SECONDS = 5  # a client waits for the answer


def create_app(settings: Settings) -> FastAPI:
    """The API over the Redis and the storage that the settings name; nothing is connected before it starts."""
    app = FastAPI(
        lifespan=_lifespan(settings),
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (jobs, events, artifacts, catalog, operations, pages):
        app.include_router(module.router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestIdentity)
    install(app)
    describe(app)
    return app


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        follower = connect_async(settings.redis_url)
        with (
            connect(settings.redis_url) as redis,
            connect(settings.redis_url, decode=False) as transport,
            reconciling(settings),
        ):
            try:
                yield State(
                    settings=settings,
                    redis=redis,
                    follower=follower,
                    records=Records(redis, lease_seconds=settings.lease_seconds),
                    queue=JobQueue(transport, max_running=settings.max_running_jobs),
                    storage=Storage(settings.artifacts_url, retry_seconds=STORAGE_RETRY_SECONDS),
                    keys=Keys(redis),
                )
            finally:
                await follower.aclose()

    return lifespan
