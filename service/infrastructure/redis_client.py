"""Redis clients that outlive a short outage."""

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

OUTAGES = (redis.ConnectionError, redis.TimeoutError)


def connect(url: str, *, patience: int = 4, decode: bool = True) -> redis.Redis:
    """A client whose every command is tried again `patience` times, with pauses of half a second up to five.

    The API keeps the default and answers 503 soon; a worker passes `WORKER_PATIENCE` and waits for minutes.
    `decode` gives text instead of bytes; RQ wants bytes.
    """
    retry = Retry(ExponentialBackoff(cap=5, base=0.5), patience, supported_errors=OUTAGES)
    return redis.Redis.from_url(url, decode_responses=decode, retry=retry, health_check_interval=30)


def connect_async(url: str, *, connections: int, patience: int = 4) -> redis.asyncio.Redis:
    """The same for coroutines, of which no more than `connections` may wait in it at the same time."""
    retry = AsyncRetry(ExponentialBackoff(cap=5, base=0.5), patience, supported_errors=OUTAGES)
    return redis.asyncio.Redis.from_url(
        url, decode_responses=True, retry=retry, health_check_interval=30, max_connections=connections
    )


WORKER_PATIENCE = 60  # retries: about five minutes
