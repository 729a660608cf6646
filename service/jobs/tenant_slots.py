"""A tenant's slots: how many of its jobs may be with the workers, in RQ's queue or running, at the same time.

A job without a slot waits: it stays `queued`, outside RQ's queue. The scripts that end or delete a job release its slot
and make the tenant's first waiting job due for the reconciler, which enqueues it. Otherwise the reconciler checks a
waiting job only every ten minutes, so that thousands of them cost little.
"""

import json

from redis import Redis

from service.infrastructure.redis_keys import slots_key
from service.infrastructure.redis_scripts import load_script
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import RANKS, RqJobFactory
from service.jobs.state_machine import PACKAGE, SlotRequest, keys_of

CHECK_AFTER_MS = 600_000  # of a waiting job; a free slot makes it due at once


def slot_request_for(record: JobRecord, limit: int, rq_jobs: RqJobFactory) -> SlotRequest:
    """The request of the job's next attempt, whose tenant has `limit` slots."""
    rank = RANKS[record.request.priority]
    return SlotRequest(limit, rank, CHECK_AFTER_MS, record.attempt, rq_jobs.next_attempt(record))


class TenantSlots:
    """The slots of all tenants, `limit` for each."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._redis = redis
        self._limit = limit
        self._rq_jobs = RqJobFactory(redis)
        self._enqueue_attempt = load_script(redis, PACKAGE, "enqueue_attempt")

    def take(self, record: JobRecord) -> bool:
        """Take a slot for a queued job, unless it has one, and enqueue its next attempt in the same step.

        False where the job has to wait for a slot, or is not queued any more.
        """
        request = slot_request_for(record, self._limit, self._rq_jobs)
        arguments: list[str | bytes] = [record.tenant, record.id, json.dumps(request.arguments), request.rq_job.data]
        return bool(self._enqueue_attempt(keys=keys_of(record.tenant, record.id), args=arguments))

    def has(self, tenant: str, job_id: str) -> bool:
        """Whether the job has a slot."""
        return bool(self._redis.sismember(slots_key(tenant), job_id))
