"""For those who run the service: is it up, can it work, which version is it."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.dependencies import Administrator, MetricsDep, ReadinessDep
from service.api.problems import only_problems, problem_responses
from service.contract.catalog import Health, Version
from service.infrastructure.version import package_version

router = APIRouter(tags=["operations"])


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
async def get_readiness(readiness: ReadinessDep, response: Response) -> Health:
    """Whether Redis and the object store answer, as of a few seconds ago. That no worker lives is a warning: jobs are
    accepted and wait."""
    health = await readiness.health()
    response.status_code = 200 if health.ok else 503
    return health


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
