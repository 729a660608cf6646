"""The route that plans a request without running it."""

from typing import Annotated

from fastapi import APIRouter, Body

from service.api.dependencies import DurationsDep, ScoresDep, SettingsDep, StorageDep, Writer
from service.api.middleware import StrictRoute
from service.api.openapi.examples import REQUESTS
from service.api.problems import problem_responses
from service.contract.answers.catalog import Plan
from service.contract.answers.job import Stage
from service.contract.errors import TaskslimError
from service.contract.request.job_request import JobRequest
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
    summary="Plan a request without running it",
    response_description="The plan; nothing is queued or stored",
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
    """The widths, sizes and runtimes of the slim model, from the config and the tensor headers of the dense model.

    The plan also says whether the unit scores of an earlier job can be used, and estimates the time from past jobs.
    A request that `POST /jobs` refuses is refused with the same problem. A GGUF model cannot be planned, because a
    worker has to convert it first. Of a model on a hub only the headers are fetched.
    """
    check_webhook(request, settings)
    access = access_of(caller, settings, storage)
    found = plan(request, access, settings.tokens_per_batch)
    units, rows = _cached(request, access, scores)
    skipped = [stage for stage, cached in ((Stage.attribute, units), (Stage.evaluate_dense, rows)) if cached]
    work = planned_work(request, found.family, found.parameters.dense, access)
    time = durations.estimate(work, skipped) if work else None
    return found.model_copy(update={"scores_cached": units, "time": time})


def _cached(request: JobRequest, access: Access, scores: ScoreSets) -> tuple[bool | None, bool | None]:
    """Whether the unit scores and the dense model's evaluation of the request are stored; None where a source of the
    request cannot be read here."""
    try:
        found = fingerprints(request, access)
    except TaskslimError:
        return None, None
    return scores.serves(access.tenant, found.units), scores.serves(access.tenant, found.rows)
