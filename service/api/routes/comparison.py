"""The route that compares jobs of one model and task."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import JobStoreDep, Reader, StorageDep
from service.api.openapi.examples import EXAMPLE_JOB_ID
from service.api.problems import problem_responses
from service.contract.answers.comparison import Comparison
from service.contract.answers.job import JobStatus
from service.contract.errors import Conflict, InvalidRequest
from service.contract.ids import ULID_PATTERN
from service.storage import comparison

MAX_JOBS = 20

router = APIRouter(tags=["jobs"])


@router.get(
    "/compare",
    operation_id="compareJobs",
    summary="Compare jobs of one model and task",
    responses=problem_responses(404, 409),
)
def compare_jobs(
    caller: Reader,
    job_store: JobStoreDep,
    storage: StorageDep,
    jobs: Annotated[
        str,
        Query(
            pattern=f"^{ULID_PATTERN}(,{ULID_PATTERN})*$",
            description=f"ids of at most {MAX_JOBS} jobs that have succeeded",
            examples=[EXAMPLE_JOB_ID],
        ),
    ],
) -> Comparison:
    """The slim models of the jobs beside each other: size and latency, and the metric with its interval.

    `frontier` names the sizes by which no other model is better. The jobs must have the same model, task, metric and
    evaluation rows. A sweep has all of its models.
    """
    ids = list(dict.fromkeys(jobs.split(",")))
    if len(ids) > MAX_JOBS:
        raise InvalidRequest(f"{len(ids)} jobs are too many: compare at most {MAX_JOBS}", param="jobs")
    for job_id in ids:
        status = job_store.get(caller.tenant, job_id).status
        if status is not JobStatus.succeeded:
            raise Conflict(f"job {job_id} is {status}: compare jobs that have succeeded", param="jobs")
    return comparison.compare_jobs(storage, caller.tenant, ids)
