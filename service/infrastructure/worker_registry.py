"""The live worker processes, as they register themselves; readiness and metrics read it."""

from redis import Redis

from service.infrastructure.redis_client import now_ms

WORKERS = "slim:workers"  # name -> time of its last registration by Redis' clock, in seconds
LIVE_SECONDS = 45  # an idle worker registers every 15 seconds, a busy one every 5
FORGET_SECONDS = 86400


def register_worker(redis: Redis, worker: str) -> None:
    """Say that `worker` is alive, and forget those that have not registered for a day."""
    now = now_ms(redis) // 1000
    redis.zadd(WORKERS, {worker: now})
    redis.zremrangebyscore(WORKERS, 0, now - FORGET_SECONDS)


def unregister_worker(redis: Redis, worker: str) -> None:
    """Say that `worker` has ended."""
    redis.zrem(WORKERS, worker)


def live_workers(redis: Redis) -> list[str]:
    """The names of the workers that registered lately."""
    names = redis.zrangebyscore(WORKERS, now_ms(redis) // 1000 - LIVE_SECONDS, "+inf")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]
