"""What the service's tests share: the API over the test's Redis and directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.api.app import create_app
from service.jobs.store import JobStore
from service.settings import Settings
from service.sources.access import Access
from service.storage.object_store import Storage
from tests.support.job_requests import request_body


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The API in this process; a bug in it is a 500, as it is for a user."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """A request that is admitted: its model is of a known family, its rows come with it."""
    return request_body(tmp_path)


@pytest.fixture
def job_store(redis: Redis, settings: Settings) -> JobStore:
    """The records that the API reads."""
    return JobStore(redis, lease_seconds=settings.lease_seconds)


@pytest.fixture
def access(storage: Storage) -> Access:
    """Access of a caller who may name every local path."""
    return Access(storage, "default", True, ())
