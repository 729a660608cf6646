"""The commands `taskslim keys`: a created key is accepted, a revoked key is refused."""

from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from service.cli.__main__ import app
from service.contract.errors import Unauthorized
from service.infrastructure.embedded_redis import embedded_redis
from service.infrastructure.redis_client import connect
from service.tenants.api_keys import ApiKeys, KeyScope


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def at_redis(redis: Redis, redis_server: str, monkeypatch: pytest.MonkeyPatch) -> Redis:
    monkeypatch.setenv("SLIM_REDIS_URL", redis_server)
    return redis


def test_created_key_is_accepted_until_it_is_revoked(at_redis: Redis) -> None:
    options = ("--tenant", "search", "--scope", "jobs:read", "--scope", "jobs:write", "--days", "7")
    text = run("create", *options).strip()
    caller = ApiKeys(at_redis).authenticate(text)
    assert (caller.tenant, caller.scopes) == ("search", frozenset({KeyScope.jobs_read, KeyScope.jobs_write}))
    assert caller.key_id is not None
    assert run("revoke", caller.key_id) == f"key {caller.key_id} is revoked\n"
    with pytest.raises(Unauthorized):
        ApiKeys(at_redis).authenticate(text)


def test_list_shows_every_key_and_no_secret(at_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    texts = [run("create", "--name", name).strip() for name in ("first", "second")]
    revoked = ApiKeys(at_redis).list()[0].id
    run("revoke", revoked)
    listed = run("list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [key.id for key in ApiKeys(at_redis).list()]
    assert "revoked" in listed
    assert not any(text.rpartition("_")[2] in listed for text in texts)


def test_keys_are_the_same_whether_the_server_runs_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIM_REDIS_URL", raising=False)
    first = run("create", "--state", str(tmp_path)).strip()
    with embedded_redis(tmp_path / "redis") as url, connect(url) as redis:
        second = run("create", "--state", str(tmp_path)).strip()
        for text in (first, second):
            assert ApiKeys(redis).authenticate(text).key_id is not None
