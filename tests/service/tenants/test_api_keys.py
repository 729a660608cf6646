"""API keys: only a valid one opens the door, and nothing that is stored can be used as one."""

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from service.contract.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from service.tenants.api_keys import ANONYMOUS, KEY, ApiKeys, KeyScope, credential
from service.tenants.origins import bound_host, is_rebindable


def test_without_any_key_the_caller_on_this_machine_is_anonymous(redis: Redis) -> None:
    assert ApiKeys(redis, on_loopback=True).authenticate(None) == ANONYMOUS
    assert ApiKeys(redis, on_loopback=True).authenticate("anything") == ANONYMOUS


def test_without_any_key_nobody_comes_in_from_elsewhere(redis: Redis) -> None:
    for text in (None, "anything", f"slim_live_nobody_{'a' * 64}"):
        with pytest.raises(Unauthorized):
            ApiKeys(redis).authenticate(text)


def test_a_key_names_its_tenant_and_scopes(redis: Redis) -> None:
    key, text = ApiKeys(redis).create("search", [KeyScope.jobs_read])
    caller = ApiKeys(redis).authenticate(text)
    assert (caller.tenant, caller.scopes, caller.key_id) == ("search", frozenset({KeyScope.jobs_read}), key.id)


def test_a_missing_scope_is_forbidden_and_admin_holds_all(redis: Redis) -> None:
    keys = ApiKeys(redis)
    reader = keys.authenticate(keys.create("search", [KeyScope.jobs_read])[1])
    reader.require(KeyScope.jobs_read)
    with pytest.raises(Forbidden, match="jobs:write"):
        reader.require(KeyScope.jobs_write)
    keys.authenticate(keys.create("search", [KeyScope.admin])[1]).require(KeyScope.jobs_write)


def test_only_the_very_key_is_accepted(redis: Redis) -> None:
    keys = ApiKeys(redis)
    _, text = keys.create()
    other = "0" if text[-1] != "0" else "1"
    for wrong in (
        None,
        "",
        "nonsense",
        text[:-1] + other,
        text.replace("live", "test") + "0",
        f"slim_live_nobody_{'a' * 64}",
    ):
        with pytest.raises(Unauthorized):
            ApiKeys(redis).authenticate(wrong)


def test_an_expired_key_is_refused(redis: Redis) -> None:
    keys = ApiKeys(redis)
    _, text = keys.create(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(Unauthorized):
        keys.authenticate(text)


def test_revoking_the_last_key_closes_the_door(redis: Redis) -> None:
    key, text = ApiKeys(redis).create()
    ApiKeys(redis).revoke(key.id)
    with pytest.raises(Unauthorized):
        ApiKeys(redis, on_loopback=True).authenticate(text)
    with pytest.raises(Unauthorized):
        ApiKeys(redis, on_loopback=True).authenticate(None)
    with pytest.raises(NotFound):
        ApiKeys(redis).revoke("nobody")


def test_no_secret_is_stored(redis: Redis) -> None:
    _, text = ApiKeys(redis).create()
    match = KEY.fullmatch(text)
    assert match is not None
    stored = str([redis.hgetall(name) for name in redis.scan_iter()])
    assert match[2] in stored
    assert match[3] not in stored


def test_the_list_shows_when_a_key_was_used(redis: Redis) -> None:
    keys = ApiKeys(redis)
    unused, (used, text) = keys.create(name="first")[0], keys.create(name="second")
    keys.authenticate(text)
    listed = {key.id: key.last_used_at for key in keys.list()}
    assert listed[unused.id] is None
    assert listed[used.id] is not None
    assert [key.name for key in keys.list()] == ["first", "second"]


def test_a_key_from_the_environment_opens_the_door_until_it_is_revoked(redis: Redis) -> None:
    text = f"slim_prod_first_{'5a' * 32}"
    adopted = ApiKeys(redis).adopt(text)
    assert ApiKeys(redis).adopt(text) == adopted
    assert ApiKeys(redis).authenticate(text).key_id == "first"
    ApiKeys(redis).revoke("first")
    ApiKeys(redis).adopt(text)
    with pytest.raises(Unauthorized):
        ApiKeys(redis).authenticate(text)


def test_a_weak_or_misshapen_key_is_not_adopted(redis: Redis) -> None:
    for text in ("secret", "slim_prod_first_short", f"slim_PROD_first_{'5a' * 32}"):
        with pytest.raises(InvalidRequest):
            ApiKeys(redis).adopt(text)


def test_a_tenant_name_that_could_leave_its_prefix_is_refused(redis: Redis) -> None:
    for tenant in ("", "../other", "a:b", "a/b", "A"):
        with pytest.raises(InvalidRequest):
            ApiKeys(redis).create(tenant)


def test_both_headers_carry_a_key() -> None:
    assert credential("Bearer abc", None) == "abc"
    assert credential("bearer  abc ", "other") == "abc"
    assert credential(None, "abc") == "abc"
    assert credential("Basic abc", None) is None


def test_without_a_key_the_server_listens_on_loopback_only(redis: Redis) -> None:
    keys = ApiKeys(redis)
    assert bound_host("0.0.0.0", keys) == "127.0.0.1"
    assert bound_host("::1", keys) == "::1"
    keys.create()
    assert bound_host("0.0.0.0", keys) == "0.0.0.0"


def test_only_a_name_that_a_stranger_could_own_is_rebindable() -> None:
    for own in (
        "localhost",
        "localhost:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "::1",
        "api",
        "a.localhost:80",
        "",
        "localhost.",
    ):
        assert not is_rebindable(own), own
    for theirs in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:8000",
        "localhost.evil.example",
    ):
        assert is_rebindable(theirs), theirs
