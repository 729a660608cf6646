"""For those who run the service: is it up, can it work, which version is it."""

from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from redis import RedisError

from service.connections import connect
from service.errors import StorageUnavailable
from service.presence import live_workers
from service.routes.dependencies import Administrator, MetricsDep, SettingsDep, StorageDep
from service.routes.problems import only_problems, problem_responses
from service.schemas import Check, Health, Version

router = APIRouter(tags=["operations"])


def package_version() -> str:
    return version("taskslim")


@router.get("/healthz", operation_id="getHealth", summary="Is the process up?", responses=only_problems(413))
def get_health() -> Health:
    """Answers as long as the process can; asks nobody else."""
    return Health(ok=True)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Can it take and serve jobs?",
    responses={
        **only_problems(413),
        503: {"model": Health, "description": "Something that it needs is away; `checks` says what"},
    },
)
def get_readiness(settings: SettingsDep, storage: StorageDep, response: Response) -> Health:
    """Asks Redis and the object store. That no worker lives is a warning: jobs are accepted and wait."""
    with connect(settings.redis_url, patience=0) as redis:  # a probe wants an answer now
        checks = {"redis": _check(redis.ping), "storage": _check(storage.check)}
        idle = checks["redis"].ok and not live_workers(redis)
    ok = all(check.ok for check in checks.values())
    response.status_code = 200 if ok else 503
    return Health(ok=ok, checks=checks, warnings=["no live worker: jobs wait in the queue"] if idle else [])


@router.get("/version", operation_id="getVersion", summary="Which version is it?", responses=only_problems(413))
def get_version() -> Version:
    """The version of the package that answers."""
    return Version(name="taskslim", version=package_version())


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        **problem_responses(),
        200: {"description": "Exposition format", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def get_metrics(caller: Administrator, metrics: MetricsDep) -> Response:
    """What this process and, through Redis, all workers have counted. With keys configured it takes an `admin` key."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _check(ask: Callable[[], object]) -> Check:
    try:
        ask()
    except (RedisError, StorageUnavailable) as error:
        return Check(ok=False, reason=str(error) or type(error).__name__)
    return Check(ok=True)
