import pytest

from service.infrastructure.redis_client import connect
from service.jobs.queue import JobQueue
from service.settings import Settings


@pytest.fixture
def queue(settings: Settings) -> JobQueue:
    """The queue that workers take jobs from."""
    return JobQueue(connect(settings.redis_url, decode=False))
