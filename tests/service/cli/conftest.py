"""`taskslim` against a real server process."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.cli.__main__ import main
from service.settings import Settings
from service.storage.object_store import Storage
from tests.support.api_process import api
from tests.support.command_line import Run, Taskslim


@pytest.fixture(scope="module")
def server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings]]:
    """The URL of a server process, and its settings."""
    directory = tmp_path_factory.mktemp("cli")
    settings = Settings(redis_url=redis_server, state=directory / "state", reconcile_seconds=0.5, device="cpu")
    with api(settings, directory / "log") as url:
        yield url, settings


@pytest.fixture
def storage(server: tuple[str, Settings]) -> Storage:
    """The server's artifacts."""
    return Storage(server[1].artifacts_url)


@pytest.fixture
def taskslim(
    redis: Redis,
    server: tuple[str, Settings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Taskslim:
    """Runs `taskslim ...` with the server, whose Redis is empty at first."""
    monkeypatch.setenv("SLIM_URL", server[0])

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["taskslim", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def request_file(tmp_path: Path, body: dict[str, Any]) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(body))
    return path
