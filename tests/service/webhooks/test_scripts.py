"""The Lua scripts of webhooks, run by their file names against a real Redis."""

from typing import cast

from redis import Redis

from service.infrastructure.redis_scripts import load_script


def test_claim_messages_takes_what_is_due_by_the_clock_of_redis(redis: Redis) -> None:
    now = redis.time()[0] * 1000
    redis.zadd("messages", {"due": now - 1, "later": now + 600_000})
    run = load_script(redis, "service.webhooks", "claim_messages")
    assert run(keys=["messages"], args=[10, 60_000]) == ["due"]
    assert run(keys=["messages"], args=[10, 60_000]) == []
    assert cast(float, redis.zscore("messages", "due")) >= now + 60_000


def test_rotate_secret_keeps_the_old_secret_for_a_time(redis: Redis) -> None:
    run = load_script(redis, "service.webhooks", "rotate_secret")
    assert run(keys=["present", "old"], args=["first", 60]) == "first"
    assert not redis.exists("old")
    assert run(keys=["present", "old"], args=["second", 60]) == "second"
    assert (redis.get("present"), redis.get("old"), redis.ttl("old") > 0) == ("second", "first", True)
