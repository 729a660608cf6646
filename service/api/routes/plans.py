"""What a request would come to, before anything is spent on it."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.api.dependencies import DurationsDep, ScoresDep, SettingsDep, StorageDep, Writer
from service.api.middleware import StrictRoute
from service.api.openapi.examples import REQUESTS
from service.api.problems import problem_responses
from service.contract.catalog import Plan
from service.contract.errors import TaskslimError
from service.contract.job import Stage
from service.contract.request import JobRequest
from service.jobs.submission import access_of, check_webhook
from service.planning.plan import plan
from service.planning.time_estimate import planned_work
from service.sources.access import Access
from service.sources.fingerprints import fingerprints
from service.storage.score_sets import ScoreSets

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
    scores: ScoresDep,
    durations: DurationsDep,
) -> Plan:
    """Widths, parameters, bytes, cache and runtimes, from the model's config and the headers of its weights; whether
    an earlier job has measured the unit scores, and how long it may take, by the pace of past runs.

    A request that a job would refuse is refused alike. A GGUF file cannot be planned: a worker converts it first. Of a
    model on a hub nothing but the headers is fetched, where the local cache does not have it.
    """
    check_webhook(request, settings)
    access = access_of(caller, settings, storage)
    found = plan(request, access)
    units, rows = _cached(request, access, scores)
    skipped = [stage for stage, cached in ((Stage.attribute, units), (Stage.evaluate_dense, rows)) if cached]
    work = planned_work(request, found.family, found.parameters.dense, access)
    time = durations.estimate(work, skipped) if work else None
    return found.model_copy(update={"scores_cached": units, "time": time})


def _cached(request: JobRequest, access: Access, scores: ScoreSets) -> tuple[bool | None, bool | None]:
    """Whether there are unit scores, and the dense model's answers, for the request; None where a source of it cannot
    be looked at from here."""
    try:
        found = fingerprints(request, access)
    except TaskslimError:
        return None, None
    return scores.serves(access.tenant, found.units), scores.serves(access.tenant, found.rows)
