"""The API that serves the status page, and a tab of a real browser. The tests change records in place of a worker."""

from collections.abc import Iterator

import pytest
from redis import Redis

from service.jobs.store import JobStore
from service.settings import Settings
from tests.support.api_server import serving
from tests.support.browser import Browser, Tab


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Settings with a long lease, so that no job of a slow test is requeued."""
    return settings.model_copy(update={"lease_seconds": 300.0})


@pytest.fixture
def page(patient: Settings) -> Iterator[str]:
    with serving(patient) as url:
        yield url


@pytest.fixture
def job_store(redis: Redis, patient: Settings) -> JobStore:
    return JobStore(redis, lease_seconds=patient.lease_seconds)


@pytest.fixture
def tab(browser: Browser) -> Tab:
    tab = Tab(browser)
    tab.resize(1280, 900)
    return tab
