"""run_job: the only function that RQ may call, in a new process for each attempt."""

import structlog

from service.contract.ids import new_id
from service.infrastructure import tracing
from service.infrastructure.redis_client import WORKER_RETRIES, connect
from service.jobs.leases import LeaseLost
from service.jobs.store import JobStore
from service.settings import Settings
from worker.attempts.lifecycle import AttemptLifecycle

log = structlog.get_logger()


def run_job(tenant: str, job_id: str, attempt: int) -> None:
    """Run one attempt of a job and write its outcome to the job's record.

    Does nothing where the attempt cannot be leased, because its RQ job is outdated or a duplicate.
    """
    settings = Settings()
    job_store = JobStore(connect(settings.redis_url, retries=WORKER_RETRIES), lease_seconds=settings.lease_seconds)
    structlog.contextvars.bind_contextvars(tenant=tenant, job_id=job_id, attempt=attempt)
    try:
        lease = job_store.lease(tenant, job_id, attempt, worker=new_id())
    except LeaseLost as refused:
        log.info("attempt not started", reason=str(refused))
        return
    structlog.contextvars.bind_contextvars(request_id=lease.job.request_id)
    with tracing.attempt_span(job_id, attempt, lease.job.trace):
        AttemptLifecycle(settings, job_store, lease).run()
    tracing.flush()
