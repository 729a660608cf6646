"""How many jobs of a tenant may be with the workers, in the queue or running, at the same time.

A job without a slot stays `queued` outside RQ. When a slot comes free (`service.transitions` sees to it in the run that
ends a job), the tenant's first waiting job becomes due for the reconciler, which hands it on. Until then nobody need
look at it, so that thousands may wait at no cost.
"""

from redis import Redis

from service.transitions import OPEN, job_key, open_member, slots_key, waiting_key

PUT_OFF_SECONDS = 600  # the next look at a job that waits for a slot, should a slot come free and nobody see it

# A job that is cancelled or gone by now gets no slot and no place in the line: nothing would ever take it out again.
TAKE = """
local slots, waiting, open, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, limit, rank, members = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local put_off_seconds = tonumber(ARGV[5])
if redis.call('HGET', job, 'status') ~= 'queued' then return 0 end
if redis.call('SISMEMBER', slots, id) == 1 then return 1 end
redis.call('ZADD', waiting, rank, id)
if redis.call('SCARD', slots) >= limit or redis.call('ZRANGE', waiting, 0, 0)[1] ~= id then
  redis.call('ZADD', open, 'XX', (redis.call('TIME')[1] + put_off_seconds) * 1000, members .. id)
  return 0
end
redis.call('SADD', slots, id)
redis.call('ZREM', waiting, id)
local following = redis.call('ZRANGE', waiting, 0, 0)[1]
if following and redis.call('SCARD', slots) < limit then redis.call('ZADD', open, 'XX', 0, members .. following) end
return 1
"""


class Slots:
    """The slots of all tenants, each of which has `limit`."""

    def __init__(self, redis: Redis, limit: int) -> None:
        self._redis = redis
        self._limit = limit
        self._take = redis.register_script(TAKE)

    def take(self, tenant: str, job_id: str, rank: int) -> bool:
        """A slot for the queued job, or its old one. False: it waits, behind those of lower rank and earlier ones, or
        is not queued any more."""
        keys = [slots_key(tenant), waiting_key(tenant), OPEN, job_key(tenant, job_id)]
        return bool(self._take(keys=keys, args=[job_id, self._limit, rank, open_member(tenant, ""), PUT_OFF_SECONDS]))

    def has(self, tenant: str, job_id: str) -> bool:
        return bool(self._redis.sismember(slots_key(tenant), job_id))
