"""run_job: the only function that RQ may call, in a new process for each attempt."""

import structlog
from rq import Retry

from service.contract.ids import new_id
from service.infrastructure import tracing
from service.infrastructure.redis_client import WORKER_RETRIES, connect
from service.jobs.leases import Lease, LeaseLost
from service.jobs.store import JobStore
from service.settings import Settings
from worker.attempts.lifecycle import AttemptLifecycle
from worker.attempts.shard_lifecycle import ShardLifecycle

MAX_RETURNS = 1000  # of a shard to RQ; the deadline of the job ends them before

log = structlog.get_logger()


def run_job(tenant: str, job_id: str, attempt: int, shard: int | None = None) -> Retry | None:
    """Run one attempt of a job, or one shard of it, and write its outcome to the job's record.

    Does nothing where the attempt cannot be leased, because its RQ job is outdated or a duplicate. A shard that is to
    be run again, because its worker was told to stop or a resource is missing, is returned to RQ.
    """
    settings = Settings()
    job_store = JobStore(connect(settings.redis_url, retries=WORKER_RETRIES), lease_seconds=settings.lease_seconds)
    structlog.contextvars.bind_contextvars(tenant=tenant, job_id=job_id, attempt=attempt)
    try:
        lease = _lease(job_store, tenant, job_id, attempt, shard)
    except LeaseLost as refused:
        log.info("attempt not started", reason=str(refused))
        return None
    structlog.contextvars.bind_contextvars(request_id=lease.job.request_id)
    with tracing.attempt_span(job_id, attempt, lease.job.trace):
        lifecycle = AttemptLifecycle if shard is None else ShardLifecycle
        is_to_be_repeated = lifecycle(settings, job_store, lease).run()
    tracing.flush()
    return Retry(MAX_RETURNS, enqueue_at_front=True) if shard is not None and is_to_be_repeated else None


def _lease(job_store: JobStore, tenant: str, job_id: str, attempt: int, shard: int | None) -> Lease:
    if shard is None:
        return job_store.lease(tenant, job_id, attempt, worker=new_id())
    return job_store.lease_shard(tenant, job_id, attempt, shard, worker=new_id())
