"""Limits of a tenant on requests, streams and stored bytes."""

import pytest
from redis import Redis

from service.contract.errors import LimitExceeded, TooManyRequests
from service.tenants.rate_limit import RequestLimit, check_request_limit
from service.tenants.storage_quota import StoredBytes
from service.tenants.stream_limit import StreamLimit
from tests.support.waiting import wait_until


def test_request_over_the_quota_is_refused_with_the_time_to_wait(redis: Redis) -> None:
    first, second = (RequestLimit(redis, quota=3, window_seconds=60) for _ in range(2))
    for limit in (first, second, first):
        check_request_limit(limit.count_request("search"))
    with pytest.raises(TooManyRequests) as refused:
        check_request_limit(second.count_request("search"))
    assert 0 < (refused.value.retry_after_seconds or 0) <= 60
    check_request_limit(first.count_request("other"))


def test_window_ends(redis: Redis) -> None:
    limit = RequestLimit(redis, quota=1, window_seconds=60)
    check_request_limit(limit.count_request("search"))
    redis.pexpire("slim:search:requests", 1)
    wait_until(lambda: not redis.exists("slim:search:requests"))
    assert limit.count_request("search").used == 1


def test_window_without_an_expiry_gets_one(redis: Redis) -> None:
    redis.set("slim:search:requests", 5)
    assert RequestLimit(redis, quota=9, window_seconds=60).count_request("search").reset_seconds == 60
    assert 0 < redis.pttl("slim:search:requests") <= 60_000


def test_headers_have_quota_remainder_and_reset(redis: Redis) -> None:
    window = RequestLimit(redis, quota=10, window_seconds=60).count_request("search")
    assert window.headers() == {"RateLimit-Policy": '"requests";q=10;w=60', "RateLimit": '"requests";r=9;t=60'}


def test_released_stream_can_be_opened_again() -> None:
    stream_limit = StreamLimit(per_tenant=2, in_all=3)
    for tenant in ("search", "search", "ads"):
        stream_limit.acquire(tenant)
    for tenant in ("search", "ads", "other"):
        with pytest.raises(LimitExceeded):
            stream_limit.acquire(tenant)
    stream_limit.release("search")
    stream_limit.acquire("other")
    with pytest.raises(LimitExceeded, match="the server"):
        stream_limit.acquire("search")


def test_stored_bytes_are_counted_once_for_each_item(redis: Redis) -> None:
    stored = StoredBytes(redis)
    for _ in range(2):
        stored.record("search", "job-1", 60)
    stored.record("search", "dataset-1", 30)
    stored.record("other", "job-9", 500)
    assert stored.used("search") == 90
    with pytest.raises(LimitExceeded):
        stored.reserve_bytes("search", "dataset-2", 11, 100)
    assert stored.used("search") == 90
    stored.reserve_bytes("search", "dataset-2", 10, 100)
    stored.reserve_bytes("search", "dataset-2", 10, 100)
    assert stored.used("search") == 100
    stored.record("search", "dataset-2", 0)
    stored.record("search", "job-1", 0)
    stored.record("search", "job-1", 0)
    assert stored.used("search") == 30


def test_full_quota_is_refused(redis: Redis) -> None:
    stored = StoredBytes(redis)
    stored.record("search", "job-1", 100)
    with pytest.raises(LimitExceeded):
        stored.check_quota("search", 100)
