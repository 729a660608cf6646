"""What all tests share: a real Redis server that is empty at the start of a test, an S3 server and a browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from redis import Redis

from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.browser import Browser, browsing, find_browser
from tests.support.family_cases import mark_slow
from tests.support.s3_server import credentials, s3_server

# A case has no deadline: its time depends on the machine.
hypothesis_settings.register_profile("untimed", deadline=None)
hypothesis_settings.load_profile("untimed")


NO_BROWSER = "no Chromium is installed; run `make browser` as root, or install Chromium or Chrome"
# These take minutes in one process; started last, they would run alone at the end.
HEAVY = ("test_real_model.py", "test_end_to_end.py", "test_docs.py", "test_faults.py")


def pytest_configure() -> None:
    """One thread for each process that computes: more threads than cores wait for each other most of the time."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark cases as slow before `-m` is applied; then run the files of HEAVY first, and the others in their order."""
    mark_slow(items)
    yield
    items.sort(key=lambda item: item.path.name not in HEAVY)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line at the end which tests did not run for want of a browser."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"NOT TESTED: {len(skipped)} tests of the pages: {NO_BROWSER}", red=True)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server process that lives as long as the session."""
    with embedded_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis(redis_server: str) -> Iterator[Redis]:
    """A client of an empty server."""
    with connect(redis_server) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(redis: Redis, redis_server: str, tmp_path: Path) -> Settings:
    """A deployment on the test's server and a directory of its own, quick to notice a lost worker."""
    return Settings(
        redis_url=redis_server,
        state=tmp_path / "state",
        lease_seconds=6,  # twelve heartbeats: a loaded machine delays several in a row
        heartbeat_seconds=0.5,
        reconcile_seconds=0.5,
        device="cpu",
        standby=False,  # its imports take seconds of a processor, beside most tests for nothing
    )


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The deployment's artifacts."""
    return Storage(settings.artifacts_url)


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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium for the whole session; a test opens tabs of its own."""
    path = find_browser()
    if path is None:
        pytest.skip(NO_BROWSER)
    with browsing(path, tmp_path_factory.mktemp("browser") / "profile") as browser:
        yield browser
