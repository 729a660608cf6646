"""Which worker processes live, as they say themselves; readiness and metrics ask."""

from redis import Redis

WORKERS = "slim:workers"  # name -> when it was last heard of, Redis' seconds
LIVE_SECONDS = 45  # an idle worker speaks every 15 seconds, a busy one every 5


def register_worker(redis: Redis, worker: str) -> None:
    """Says that `worker` lives, and forgets those that have been silent for a day."""
    now = redis.time()[0]
    redis.zadd(WORKERS, {worker: now})
    redis.zremrangebyscore(WORKERS, 0, now - 86400)


def leave(redis: Redis, worker: str) -> None:
    redis.zrem(WORKERS, worker)


def live_workers(redis: Redis) -> list[str]:
    """The names of the workers that were heard of lately."""
    found = redis.zrangebyscore(WORKERS, redis.time()[0] - LIVE_SECONDS, "+inf")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]
