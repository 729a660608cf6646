"""Idempotency keys: a repeated request creates one job and gets one response."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.contract.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidRequest
from service.infrastructure.redis_keys import IDEMPOTENCY_SECONDS
from service.jobs.idempotency import Claim, Idempotency, StoredResponse, parse_key, redis_key_of

ANSWER = StoredResponse(status=202, headers={"location": "/jobs/1"}, body="{}")


def claim(redis: Redis, key: str = "a", fingerprint: str = "f", job_id: str = "job-1", tenant: str = "search") -> Claim:
    claimed = Idempotency(redis).begin(tenant, key, fingerprint, job_id)
    assert isinstance(claimed, Claim)
    return claimed


def test_repeated_request_gets_the_first_response(redis: Redis) -> None:
    Idempotency(redis).finish(claim(redis), ANSWER)
    assert Idempotency(redis).begin("search", "a", "f", "job-2") == ANSWER


def test_other_request_with_the_same_key_is_refused(redis: Redis) -> None:
    Idempotency(redis).finish(claim(redis), ANSWER)
    with pytest.raises(IdempotencyKeyReused):
        Idempotency(redis).begin("search", "a", "other", "job-2")


def test_repeated_request_is_refused_while_the_first_is_in_progress(redis: Redis) -> None:
    claim(redis)
    with pytest.raises(IdempotencyKeyInUse) as refused:
        Idempotency(redis).begin("search", "a", "f", "job-2")
    assert 0 < (refused.value.retry_after_seconds or 0) <= 61


def test_one_of_many_concurrent_requests_gets_the_claim(redis: Redis) -> None:
    def send(number: int) -> bool:
        try:
            return isinstance(Idempotency(redis).begin("search", "a", "f", f"job-{number}"), Claim)
        except IdempotencyKeyInUse:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(32))) == 1


def test_repeated_request_after_a_crash_takes_over_the_job_id(redis: Redis) -> None:
    claim(redis, job_id="job-1")
    redis.hset(redis_key_of("search", "a"), "until", 0)
    assert claim(redis, job_id="job-2").job_id == "job-1"
    with pytest.raises(IdempotencyKeyInUse):
        claim(redis, job_id="job-3")


def test_released_key_can_be_claimed_again(redis: Redis) -> None:
    Idempotency(redis).release(claim(redis))
    assert claim(redis, fingerprint="other", job_id="job-2").job_id == "job-2"


def test_tenants_do_not_share_keys(redis: Redis) -> None:
    claim(redis, tenant="search")
    assert claim(redis, tenant="other", fingerprint="g", job_id="job-2").job_id == "job-2"


def test_key_expires_after_a_day(redis: Redis) -> None:
    Idempotency(redis).finish(claim(redis), ANSWER)
    assert 0 < redis.ttl(redis_key_of("search", "a")) <= IDEMPOTENCY_SECONDS


def test_quoted_and_bare_keys_are_the_same() -> None:
    assert parse_key('"8e03978e-40d5"') == parse_key(" 8e03978e-40d5 ") == "8e03978e-40d5"


@given(st.text(max_size=300))
def test_parsed_key_is_visible_ascii(header: str) -> None:
    try:
        key = parse_key(header)
    except InvalidRequest:
        return
    assert key.isascii()
    assert key.isprintable()
    assert 1 <= len(key) <= 255
