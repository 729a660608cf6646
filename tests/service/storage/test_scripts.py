"""The Lua script of score sets, run by its file name against a real Redis."""

from redis import Redis

from service.infrastructure.redis_scripts import load_script


def test_delete_score_record_spares_a_record_that_was_replaced(redis: Redis) -> None:
    run, keys = load_script(redis, "service.storage", "delete_score_record"), ["record", "index", "expiries"]
    redis.set("record", "whole")
    redis.zadd("index", {"digest": 1})
    redis.zadd("expiries", {"scores": 1})
    assert run(keys=keys, args=["damaged", "digest", "scores"]) == 0
    assert redis.exists(*keys) == 3
    assert run(keys=keys, args=["whole", "digest", "scores"]) == 1
    assert redis.exists(*keys) == 0
