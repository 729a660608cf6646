"""Threads that repeat a step."""

import threading

import structlog
from redis import ConnectionError as RedisConnectionError

from service.infrastructure.background_threads import repeating
from tests.support.waiting import wait_until


def test_step_is_repeated_until_the_block_ends() -> None:
    calls: list[str] = []
    with repeating("counting", lambda: calls.append(threading.current_thread().name), 0.01):
        wait_until(lambda: len(calls) > 2)
    assert set(calls) == {"counting"}
    assert "counting" not in [thread.name for thread in threading.enumerate()]


def test_step_with_more_to_do_is_repeated_without_a_pause() -> None:
    calls: list[int] = []

    def step() -> bool:
        calls.append(1)
        return len(calls) < 1000

    with repeating("at once", step, 1):  # with a pause before each call this would take 1000 seconds
        wait_until(lambda: len(calls) >= 1000)


def test_step_that_fails_is_logged_and_repeated() -> None:
    errors: list[Exception] = [ValueError("a bug"), RedisConnectionError("away")]
    calls: list[int] = []

    def step() -> None:
        if errors:
            raise errors.pop(0)
        calls.append(1)

    with structlog.testing.capture_logs() as lines, repeating("failing", step, 0.01):
        wait_until(lambda: calls)
    assert [(line["event"], line["step"], line["log_level"]) for line in lines] == [
        ("background step failed", "failing", "error"),
        ("background step waits for Redis", "failing", "warning"),
    ]
