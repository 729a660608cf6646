"""Routes for operators: liveness, readiness, version and metrics."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.dependencies import Administrator, MetricsDep, ReadinessDep
from service.api.problems import only_problems, problem_responses
from service.contract.answers.catalog import Health, Version
from service.infrastructure.version import package_version

router = APIRouter(tags=["operations"])


@router.get(
    "/healthz", operation_id="getHealth", summary="Check that the process is alive", responses=only_problems(413)
)
def get_health() -> Health:
    """Always 200 while the process runs; checks nothing else."""
    return Health(ok=True)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Check that the service can accept jobs",
    responses={
        **only_problems(413),
        503: {"model": Health, "description": "Redis or the object store does not answer; `checks` says which"},
    },
)
async def get_readiness(readiness: ReadinessDep, response: Response) -> Health:
    """Whether Redis and the object store answered at the last check, at most a few seconds ago.

    Without a live worker jobs are accepted and wait, so that is a warning only.
    """
    health = await readiness.health()
    response.status_code = 200 if health.ok else 503
    return health


@router.get("/version", operation_id="getVersion", summary="Read the version", responses=only_problems(413))
def get_version() -> Version:
    """The version of the service."""
    return Version(name="taskslim", version=package_version())


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Read the Prometheus metrics",
    response_class=Response,
    responses={
        **problem_responses(),
        200: {
            "description": "Metrics in the Prometheus exposition format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    },
)
def get_metrics(caller: Administrator, metrics: MetricsDep) -> Response:
    """The metrics of this process and, through Redis, of all workers. Needs the scope `admin`, if there are keys."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
