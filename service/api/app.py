"""The FastAPI application: its routes, middleware, error handlers and the clients of the process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import redis.asyncio
from fastapi import FastAPI
from redis import Redis

from service.api.dependencies import State
from service.api.metrics import HttpMetrics
from service.api.middleware import BodyLimit, RequestId, RequestMetrics
from service.api.openapi.document import describe
from service.api.problems import add_error_handlers
from service.api.readiness import Readiness
from service.api.routes import (
    artifacts,
    capabilities,
    comparison,
    datasets,
    events,
    health,
    jobs,
    overlap,
    plans,
    scores,
    status_page,
    webhooks,
)
from service.infrastructure.background_threads import repeating
from service.infrastructure.redis_client import connect, connect_async
from service.infrastructure.version import package_version
from service.jobs.idempotency import Idempotency
from service.jobs.queue import JobQueue
from service.jobs.reconciler import reconciling
from service.jobs.retention import SWEEP_SECONDS, Retention
from service.jobs.store import JobStore
from service.jobs.submission import Submission
from service.planning.time_estimate import Durations
from service.settings import STREAMS, Settings
from service.sources.access import RETRY_SECONDS
from service.storage.datasets import Uploads
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.api_keys import ApiKeys
from service.tenants.origins import is_loopback
from service.tenants.rate_limit import RequestLimit
from service.tenants.signed_links import SignedLinks
from service.tenants.storage_quota import StoredBytes
from service.tenants.stream_limit import StreamLimit
from service.webhooks.delivery import POLL_SECONDS, Webhooks
from service.webhooks.signing import WebhookSecrets


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. It connects to Redis and the object store when it starts, not before."""
    modules = (
        *(jobs, comparison, events, artifacts, datasets, scores, overlap),
        *(webhooks, capabilities, health, status_page, plans),
    )
    app = FastAPI(
        # not `include_router`, with which each request is matched twice: among the routers and within one
        routes=[route for module in modules for route in module.router.routes],
        lifespan=_lifespan(settings),
        docs_url=None,  # its pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )
    app.webhooks.include_router(webhooks.sent)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, larger={datasets.PATH: settings.max_dataset_bytes})
    app.add_middleware(RequestId)
    app.add_middleware(RequestMetrics)
    add_error_handlers(app)
    describe(app)
    return app


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async_redis = connect_async(settings.redis_url, connections=STREAMS)
        with connect(settings.redis_url) as redis, connect(settings.redis_url, decode=False) as transport:
            state = _state(settings, redis, transport, async_redis)
            try:
                with (
                    reconciling(settings),
                    repeating("webhooks", state["webhooks"].deliver_due, POLL_SECONDS),
                    repeating("retention", state["retention"].sweep, SWEEP_SECONDS),
                ):
                    yield state
            finally:
                await async_redis.aclose()

    return lifespan


def _state(settings: Settings, redis: Redis, transport: Redis, async_redis: redis.asyncio.Redis) -> State:
    """The state of the application over these clients."""
    storage = Storage(settings.artifacts_url, retry_seconds=RETRY_SECONDS)
    job_store = JobStore(redis, lease_seconds=settings.lease_seconds)
    queue = JobQueue(transport, max_running=settings.max_running_jobs)
    stored = StoredBytes(redis)
    uploads = Uploads(redis, storage, stored)
    score_sets = ScoreSets(redis, storage)
    return State(
        settings=settings,
        async_redis=async_redis,
        stream_limit=StreamLimit(settings.max_streams, STREAMS),
        job_store=job_store,
        queue=queue,
        storage=storage,
        keys=ApiKeys(redis, on_loopback=is_loopback(settings.host)),
        requests=RequestLimit(redis, quota=settings.max_requests, window_seconds=settings.window_seconds),
        stored=stored,
        uploads=uploads,
        scores=score_sets,
        durations=Durations(redis),
        submission=Submission(job_store, storage, stored, settings),
        idempotency=Idempotency(redis),
        retention=Retention(redis, job_store, uploads, score_sets, storage, stored),
        signed_links=SignedLinks(redis),
        secrets=WebhookSecrets(redis),
        webhooks=Webhooks(redis, base_url=settings.public_url, allowed_hosts=settings.webhook_hosts),
        metrics=HttpMetrics(redis, package_version()),
        readiness=Readiness(settings.redis_url, storage),
    )
