"""Redis clients that wait out a short outage, and Redis' clock."""

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

OUTAGES = (redis.ConnectionError, redis.TimeoutError)
API_RETRIES = 4  # then the API answers 503
WORKER_RETRIES = 60  # about five minutes


def connect(url: str, *, retries: int = API_RETRIES, decode: bool = True) -> redis.Redis:
    """A client that tries each command again `retries` times, with pauses of half a second up to five.

    `decode` gives text instead of bytes; RQ wants bytes.
    """
    retry = Retry(ExponentialBackoff(cap=5, base=0.5), retries, supported_errors=OUTAGES)
    return redis.Redis.from_url(url, decode_responses=decode, retry=retry, health_check_interval=30)


def connect_async(url: str, *, connections: int) -> redis.asyncio.Redis:
    """The same for coroutines with API_RETRIES, of which at most `connections` can wait for Redis at the same time."""
    retry = AsyncRetry(ExponentialBackoff(cap=5, base=0.5), API_RETRIES, supported_errors=OUTAGES)
    return redis.asyncio.Redis.from_url(
        url, decode_responses=True, retry=retry, health_check_interval=30, max_connections=connections
    )


def now_ms(client: redis.Redis) -> int:
    """Redis' clock in milliseconds since 1970, which all times in Redis come from (`now_ms` of the Lua scripts)."""
    seconds, microseconds = client.time()
    return seconds * 1000 + microseconds // 1000
