"""How many jobs of a tenant may be with the workers, in the queue or running, at the same time.

A job without a slot stays `queued` outside RQ. When a slot comes free (`service.transitions` sees to it in the run that
ends a job), the tenant's first waiting job becomes due for the reconciler, which hands it on. Until then nobody need
look at it, so that thousands may wait at no cost.
"""

import json

from redis import Redis

from service.schemas import Priority
from service.transitions import OPEN, TAKE_SLOT, Wish, job_key, slots_key, waiting_key

PUT_OFF_SECONDS = 600  # the next look at a job that waits for a slot, should a slot come free and nobody see it
RANKS = {Priority.high: 0, Priority.normal: 1, Priority.low: 2}

TAKE = TAKE_SLOT + "return take_slot(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], cjson.decode(ARGV[3]))"


def wish_for(priority: Priority, limit: int) -> Wish:
    """What a job of this priority asks for, whose tenant may have `limit` slots."""
    return Wish(limit=limit, rank=RANKS[priority], put_off_seconds=PUT_OFF_SECONDS)


class Slots:
    """The slots of all tenants, each of which has `limit`."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._redis = redis
        self._limit = limit
        self._take = redis.register_script(TAKE)

    def take(self, tenant: str, job_id: str, priority: Priority) -> bool:
        """A slot for the queued job, or its old one. False: it waits, behind those of lower rank and earlier ones, or
        is not queued any more."""
        keys = [job_key(tenant, job_id), slots_key(tenant), waiting_key(tenant), OPEN]
        return bool(self._take(keys=keys, args=[tenant, job_id, json.dumps(wish_for(priority, self._limit))]))

    def has(self, tenant: str, job_id: str) -> bool:
        return bool(self._redis.sismember(slots_key(tenant), job_id))
