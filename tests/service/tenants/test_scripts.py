"""The Lua scripts of tenants' limits, run by their file names against a real Redis."""

from redis import Redis

from service.infrastructure.redis_scripts import load_script


def test_count_request_opens_a_window_with_its_first_request(redis: Redis) -> None:
    run = load_script(redis, "service.tenants", "count_request")
    for used in (1, 2):
        count, left_ms = run(keys=["requests"], args=[60_000])
        assert count == used
        assert 0 < left_ms <= 60_000


def test_count_request_gives_a_counter_without_expiry_a_new_one(redis: Redis) -> None:
    redis.set("requests", 9)
    assert load_script(redis, "service.tenants", "count_request")(keys=["requests"], args=[60_000]) == [10, 60_000]
    assert 0 < redis.pttl("requests") <= 60_000


def test_record_bytes_keeps_the_sum_and_the_quota(redis: Redis) -> None:
    run = load_script(redis, "service.tenants", "record_bytes")
    assert run(keys=["bytes"], args=["a", 60, 100]) == [1, 0]
    assert run(keys=["bytes"], args=["b", 41, 100]) == [0, 60]
    assert run(keys=["bytes"], args=["b", 40, 100]) == [1, 60]
    assert run(keys=["bytes"], args=["a", 0, ""]) == [1, 100]
    assert redis.hgetall("bytes") == {"b": "40", "total": "40"}
