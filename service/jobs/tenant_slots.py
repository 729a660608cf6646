"""How many jobs of a tenant may be with the workers, in the queue or running, at the same time.

A job without a slot stays `queued` outside RQ. When a slot comes free (`service.jobs.state_machine` sees to it in the
run that ends a job), the tenant's first waiting job becomes due for the reconciler, which hands it on. Until then
nobody need look at it, so that thousands may wait at no cost.
"""

import json

from redis import Redis

from service.infrastructure.redis_keys import OPEN, job_key, slots_key, waiting_key
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import RANKS, Entries
from service.jobs.state_machine import HAND_OVER, SlotRequest

PUT_OFF_SECONDS = 600  # the next look at a job that waits for a slot, should a slot come free and nobody see it

TAKE = (
    HAND_OVER
    + """
local job, slots, waiting, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local tenant, id, wish, data = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), ARGV[4]
return hand_over(job, slots, waiting, open, tenant, id, wish, data)
"""
)


def slot_request_for(record: JobRecord, limit: int, entries: Entries) -> SlotRequest:
    """What the next attempt of a job asks for, whose tenant may have `limit` slots."""
    return SlotRequest(limit, RANKS[record.request.priority], PUT_OFF_SECONDS, record.attempt, entries.next(record))


class TenantSlots:
    """The slots of all tenants, each of which has `limit`."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._redis = redis
        self._limit = limit
        self._entries = Entries(redis)
        self._take = redis.register_script(TAKE)

    def take(self, record: JobRecord) -> bool:
        """A slot for the queued job, or its old one, and in the same step its next attempt in RQ's queue. False: it
        waits, behind those of lower rank and earlier ones, or is not queued any more."""
        tenant, job_id = record.tenant, record.id
        wish = slot_request_for(record, self._limit, self._entries)
        keys = [job_key(tenant, job_id), slots_key(tenant), waiting_key(tenant), OPEN]
        return bool(self._take(keys=keys, args=[tenant, job_id, json.dumps(wish.terms), wish.entry.data]))

    def has(self, tenant: str, job_id: str) -> bool:
        return bool(self._redis.sismember(slots_key(tenant), job_id))
