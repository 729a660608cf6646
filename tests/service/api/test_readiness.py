"""The readiness check and the cache of its result."""

import asyncio
import tempfile
from pathlib import Path

from redis import Redis

from service.api.readiness import Readiness
from service.contract.answers.catalog import Health
from service.infrastructure.embedded_redis import embedded_redis
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.waiting import wait_until


async def ask(readiness: Readiness, times: int) -> list[Health]:
    return await asyncio.gather(*(readiness.health() for _ in range(times)))


def connections(redis: Redis) -> int:
    """The number of connections that the server has accepted since it started."""
    return int(redis.info("stats")["total_connections_received"])


def test_concurrent_readiness_requests_share_one_check(redis: Redis, settings: Settings, storage: Storage) -> None:
    readiness = Readiness(settings.redis_url, storage)
    before = connections(redis)
    answers = asyncio.run(ask(readiness, 50))
    assert all(health.ok for health in answers)
    assert connections(redis) == before + 1


def test_readiness_recovers_after_an_outage(storage: Storage) -> None:
    with tempfile.TemporaryDirectory() as directory:  # short: the socket keeps its path
        readiness = Readiness(f"unix://{directory}/redis.sock", storage)
        assert not is_ready(readiness)
        with embedded_redis(Path(directory)):
            wait_until(lambda: is_ready(readiness))
        wait_until(lambda: not is_ready(readiness))


def is_ready(readiness: Readiness) -> bool:
    return asyncio.run(readiness.health()).ok
