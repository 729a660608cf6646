"""API keys: only valid ones are accepted, and no secret is stored."""

from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from service.contract.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from service.tenants.api_keys import ANONYMOUS, KEY, ApiKeys, KeyScope, credential
from service.tenants.origins import bound_host, is_rebindable


def test_caller_on_loopback_is_anonymous_without_keys(redis: Redis) -> None:
    assert ApiKeys(redis, on_loopback=True).authenticate(None) == ANONYMOUS
    assert ApiKeys(redis, on_loopback=True).authenticate("anything") == ANONYMOUS


def test_caller_from_elsewhere_is_refused_without_keys(redis: Redis) -> None:
    for text in (None, "anything", f"slim_live_nobody_{'a' * 64}"):
        with pytest.raises(Unauthorized):
            ApiKeys(redis).authenticate(text)


def test_key_has_a_tenant_and_scopes(redis: Redis) -> None:
    key, text = ApiKeys(redis).create("search", [KeyScope.jobs_read])
    caller = ApiKeys(redis).authenticate(text)
    assert (caller.tenant, caller.scopes, caller.key_id) == ("search", frozenset({KeyScope.jobs_read}), key.id)


def test_missing_scope_is_forbidden_and_admin_has_all(redis: Redis) -> None:
    keys = ApiKeys(redis)
    reader = keys.authenticate(keys.create("search", [KeyScope.jobs_read])[1])
    reader.require(KeyScope.jobs_read)
    with pytest.raises(Forbidden, match="jobs:write"):
        reader.require(KeyScope.jobs_write)
    keys.authenticate(keys.create("search", [KeyScope.admin])[1]).require(KeyScope.jobs_write)


def test_changed_key_is_refused(redis: Redis) -> None:
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


def test_expired_key_is_refused(redis: Redis) -> None:
    keys = ApiKeys(redis)
    _, text = keys.create(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(Unauthorized):
        keys.authenticate(text)


def test_requests_need_a_key_after_the_last_was_revoked(redis: Redis) -> None:
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


def test_key_from_the_environment_is_valid_until_revoked(redis: Redis) -> None:
    text = f"slim_prod_first_{'5a' * 32}"
    adopted = ApiKeys(redis).adopt(text)
    assert ApiKeys(redis).adopt(text) == adopted
    assert ApiKeys(redis).authenticate(text).key_id == "first"
    ApiKeys(redis).revoke("first")
    ApiKeys(redis).adopt(text)
    with pytest.raises(Unauthorized):
        ApiKeys(redis).authenticate(text)


def test_weak_or_malformed_key_is_not_adopted(redis: Redis) -> None:
    for text in ("secret", "slim_prod_first_short", f"slim_PROD_first_{'5a' * 32}"):
        with pytest.raises(InvalidRequest):
            ApiKeys(redis).adopt(text)


def test_tenant_name_with_other_characters_is_refused(redis: Redis) -> None:
    for tenant in ("", "../other", "a:b", "a/b", "A"):
        with pytest.raises(InvalidRequest):
            ApiKeys(redis).create(tenant)


def test_both_headers_carry_a_key() -> None:
    assert credential("Bearer abc", None) == "abc"
    assert credential("bearer  abc ", "other") == "abc"
    assert credential(None, "abc") == "abc"
    assert credential("Basic abc", None) is None


def test_server_without_a_key_listens_on_loopback_only(redis: Redis) -> None:
    keys = ApiKeys(redis)
    assert bound_host("0.0.0.0", keys) == "127.0.0.1"
    assert bound_host("::1", keys) == "::1"
    keys.create()
    assert bound_host("0.0.0.0", keys) == "0.0.0.0"


def test_only_a_public_name_is_rebindable() -> None:
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
