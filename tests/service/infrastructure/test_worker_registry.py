"""The registry of live workers."""

from redis import Redis

from service.infrastructure.worker_registry import live_workers, register_worker, unregister_worker


def test_worker_is_live_from_its_registration_to_its_end(redis: Redis) -> None:
    register_worker(redis, "a")
    register_worker(redis, "b")
    redis.zincrby("slim:workers", -60, "b")
    assert live_workers(redis) == ["a"]
    unregister_worker(redis, "a")
    assert live_workers(redis) == []
