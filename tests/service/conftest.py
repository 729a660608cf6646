"""What the service's tests share: an S3 server, and the API over the test's Redis and directory."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.s3 import credentials, s3_server


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that lives as long as the session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint, with its credentials in the environment."""
    for name, value in credentials(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return s3_endpoint


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The API in this process; a bug in it is a 500, as it is for a user."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
