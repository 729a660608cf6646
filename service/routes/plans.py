"""What a request would come to, before anything is spent on it."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.examples import REQUESTS
from service.plans import plan
from service.routes.dependencies import SettingsDep, StorageDep, Writer
from service.routes.guards import StrictRoute
from service.routes.problems import problem_responses
from service.schemas import JobRequest, Plan
from service.submission import access_of

router = APIRouter(tags=["jobs"], route_class=StrictRoute)


@router.post(
    "/plans",
    operation_id="createPlan",
    summary="See what a request would come to",
    response_description="Nothing was queued and nothing is kept",
    responses=problem_responses(413),
)
def create_plan(
    request: Annotated[JobRequest, Body(openapi_examples=REQUESTS)],
    caller: Writer,
    storage: StorageDep,
    settings: SettingsDep,
) -> Plan:
    """Widths, parameters, bytes, cache and runtimes, from the model's config and the headers of its weights.

    A request that a job would refuse is refused alike. A GGUF file cannot be planned: a worker converts it first. Of a
    model on a hub nothing but the headers is fetched, where the local cache does not have it.
    """
    return plan(request, access_of(caller, settings, storage))
