"""The lock that is renewed while it is held."""

import structlog
from redis import Redis

from service.infrastructure.redis_lock import RenewedLock
from tests.support.waiting import wait_until


def test_lock_is_held_by_one_process_and_free_after_it(redis: Redis) -> None:
    one, two = (RenewedLock(redis, "lock", 60) for _ in range(2))
    with one.acquired() as first, two.acquired() as second:
        assert (first, second, one.is_held(), two.is_held()) == (True, False, True, False)
    assert not one.is_held()
    with two.acquired() as second:
        assert second


def test_lock_is_renewed_before_it_expires(redis: Redis) -> None:
    lock = RenewedLock(redis, "lock", 3)
    with lock.acquired():
        lowest = redis.pttl("lock")

        def was_renewed() -> bool:
            nonlocal lowest
            before, lowest = lowest, min(lowest, left := redis.pttl("lock"))
            return left > before

        wait_until(was_renewed)
        assert lock.is_held()


def test_lock_that_another_process_took_is_not_held_after_the_next_renewal(redis: Redis) -> None:
    lock = RenewedLock(redis, "lock", 1.5)
    with structlog.testing.capture_logs() as lines, lock.acquired():
        redis.set("lock", "another")
        wait_until(lambda: any(line["event"] == "lock lost" for line in lines))
        assert not lock.is_held()


def test_lock_that_another_process_took_is_not_released(redis: Redis) -> None:
    lock = RenewedLock(redis, "lock", 60)
    with structlog.testing.capture_logs() as lines, lock.acquired():
        redis.set("lock", "another")
    assert redis.get("lock") == "another"
    assert [line["event"] for line in lines] == ["lock expired before it was released"]
