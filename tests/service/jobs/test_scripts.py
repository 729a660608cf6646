"""The Lua scripts of jobs, run by their file names against a real Redis."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from redis import Redis

from service.contract.answers.job import JobStatus
from service.infrastructure.counters import COUNTERS
from service.infrastructure.redis_client import now_ms
from service.infrastructure.redis_keys import EXPIRIES, OPEN, WEBHOOKS, job_key, slots_key, waiting_key
from service.infrastructure.redis_scripts import load_script
from service.jobs import state_machine
from service.jobs.record import new_record
from service.jobs.rq_jobs import QUEUE_KEY, RANKS, RqJobFactory, rq_job_id
from service.jobs.state_machine import PACKAGE, SlotRequest, keys_of
from tests.support.contract_examples import REQUEST

TENANT = "search"
ID, OTHER_ID = "01JABCDEFGHJKMNPQRSTVWXYZ0", "01JABCDEFGHJKMNPQRSTVWXYZ1"
MEMBER = f"{TENANT}/{ID}"

# (operation, status before) -> status after; what is not here is refused.
LEGAL = {
    ("LEASE", "queued"): "running",
    ("RENEW", "running"): "running",
    ("RENEW", "cancelling"): "cancelling",
    ("DEFER", "queued"): "queued",
    ("SUCCEED", "running"): "succeeded",
    ("SUCCEED", "cancelling"): "cancelled",
    ("FAIL", "running"): "failed",
    ("FAIL", "cancelling"): "cancelled",
    ("HAND_BACK", "running"): "queued",
    ("HAND_BACK", "cancelling"): "cancelled",
    ("CONFIRM_CANCELLED", "cancelling"): "cancelled",
    ("CANCEL", "queued"): "cancelled",
    ("CANCEL", "running"): "cancelling",
    ("REQUEUE", "queued"): "queued",
    ("REQUEUE", "running"): "queued",
    ("REQUEUE", "cancelling"): "cancelled",
    ("GIVE_UP", "queued"): "failed",
    ("GIVE_UP", "running"): "failed",
    ("GIVE_UP", "cancelling"): "cancelled",
}
OPERATIONS = sorted({name for name, _ in LEGAL})


def create(redis: Redis, job_id: str = ID, data: bytes = b"", **options: Any) -> int:
    """Run `create_job.lua`."""
    defaults = {"tenant": TENANT, "member": f"{TENANT}/{job_id}", "fields": {"attempt": 0}, "check_after_ms": 20_000}
    arguments: list[str | bytes] = [json.dumps(defaults | options), job_id, REQUEST.model_dump_json(), data]
    return int(load_script(redis, PACKAGE, "create_job")(keys=keys_of(TENANT, job_id), args=arguments))


def change(redis: Redis, transitions: Mapping[str, str], job_id: str = ID, **options: Any) -> tuple[str, str]:
    """Run `change_job.lua`."""
    defaults = {"tenant": TENANT, "member": f"{TENANT}/{job_id}", "transitions": transitions, "max_events": 100}
    run = load_script(redis, PACKAGE, "change_job")
    verdict, status = run(keys=keys_of(TENANT, job_id), args=[json.dumps(defaults | options)])
    return verdict, status


def bring_to(redis: Redis, status: str) -> None:
    """Create the job and take it to a status."""
    create(redis)
    if status == "queued":
        return
    change(redis, state_machine.LEASE, attempt=0, worker="one")
    if status in ("cancelling", "cancelled"):
        change(redis, state_machine.CANCEL)
    final = {
        "succeeded": state_machine.SUCCEED,
        "failed": state_machine.FAIL,
        "cancelled": state_machine.CONFIRM_CANCELLED,
    }
    if status in final:
        change(redis, final[status])


def slot_request(redis: Redis, job_id: str = ID, *, limit: int = 1, rank: int = 1) -> SlotRequest:
    record = new_record(REQUEST, tenant=TENANT, job_id=job_id)
    return SlotRequest(limit, rank, 600_000, 0, RqJobFactory(redis).next_attempt(record))


@pytest.mark.parametrize("status", list(JobStatus))
@pytest.mark.parametrize("name", OPERATIONS)
def test_change_job_follows_the_table_of_states(redis: Redis, name: str, status: str) -> None:
    bring_to(redis, status)
    operation = getattr(state_machine, name)
    after = LEGAL.get((name, status))
    options: dict[str, Any] = {"attempt": 0, "worker": "two"} if name == "LEASE" else {}
    outcome = change(redis, operation, **options)
    if after is not None:
        assert outcome == ("done", after)
    elif name == "LEASE":
        assert outcome[1] == status
        assert outcome[0] in ("stale", "refused")
    else:  # an operation that has been carried out already is confirmed
        assert outcome == ("done" if status in operation.values() else "refused", status)
    assert redis.hget(job_key(TENANT, ID), "status") == (after or status)


def test_change_job_refuses_a_writer_whose_attempt_is_stale(redis: Redis) -> None:
    create(redis)
    assert change(redis, state_machine.LEASE, attempt=0, worker="one") == ("done", "running")
    assert change(redis, state_machine.HAND_BACK, attempt=1) == ("done", "queued")
    assert change(redis, state_machine.LEASE, attempt=1, worker="two") == ("done", "running")
    assert change(redis, state_machine.SUCCEED, attempt=1) == ("stale", "running")
    assert change(redis, state_machine.SUCCEED, attempt=2) == ("done", "succeeded")


def test_change_job_confirms_the_lease_of_the_same_worker_only(redis: Redis) -> None:
    create(redis)
    for worker, verdict in (("one", "done"), ("one", "done"), ("two", "stale")):
        assert change(redis, state_machine.LEASE, attempt=0, worker=worker)[0] == verdict
    assert redis.hget(job_key(TENANT, ID), "attempt") == "1"


def test_change_job_says_that_a_job_is_missing(redis: Redis) -> None:
    assert change(redis, state_machine.CANCEL) == ("missing", "")


def test_change_job_takes_a_job_from_its_worker_only_when_its_lease_has_run_out(redis: Redis) -> None:
    bring_to(redis, "running")
    change(redis, state_machine.RENEW, attempt=1, check_after_ms=60_000)
    assert change(redis, state_machine.REQUEUE, attempt=1, overdue=True) == ("early", "running")
    change(redis, state_machine.RENEW, attempt=1, check_after_ms=0)
    assert change(redis, state_machine.REQUEUE, attempt=1, overdue=True, count_lost=True) == ("done", "queued")
    assert redis.hget(job_key(TENANT, ID), "lost") == "1"
    assert json.loads(cast(str, redis.hget(job_key(TENANT, ID), "attempt:1")))["outcome"] == "lost"


def test_scripts_write_the_time_of_redis(redis: Redis) -> None:
    before = now_ms(redis)
    created = create(redis)
    change(redis, state_machine.LEASE, attempt=0, worker="one", check_after_ms=5_000)
    change(redis, state_machine.FAIL, attempt=1)
    after = now_ms(redis)
    started, finished = redis.hmget(job_key(TENANT, ID), ["started_at", "finished_at"])
    assert before <= created <= int(started or 0) <= int(finished or 0) <= after


def test_lease_runs_out_by_the_clock_of_redis(redis: Redis) -> None:
    create(redis)
    before = now_ms(redis)
    change(redis, state_machine.LEASE, attempt=0, worker="one", check_after_ms=5_000)
    due = redis.zscore(OPEN, MEMBER)
    assert due is not None
    assert before + 5_000 <= due <= now_ms(redis) + 5_000


def test_create_job_makes_a_job_once(redis: Redis) -> None:
    created = create(redis)
    assert created > 0
    assert create(redis) == 0
    assert redis.hget(job_key(TENANT, ID), "created_at") == str(created)
    assert redis.hget(COUNTERS, "slim_jobs|queued") == "1"


def test_create_job_refuses_more_queued_jobs_than_allowed(redis: Redis) -> None:
    assert create(redis, max_queued=1) > 0
    assert create(redis, OTHER_ID, max_queued=1) == -1
    assert not redis.exists(job_key(TENANT, OTHER_ID))


def test_create_job_keeps_inline_rows_that_would_expire(redis: Redis) -> None:
    redis.zadd(EXPIRIES, {f"rows/{MEMBER}": 1})
    create(redis)
    assert redis.zscore(EXPIRIES, f"rows/{MEMBER}") is None


def test_create_job_enqueues_the_first_attempt_where_a_slot_is_free(redis: Redis) -> None:
    for job_id in (ID, OTHER_ID):
        request = slot_request(redis, job_id)
        create(redis, job_id, request.rq_job.data, slot_request=request.arguments)
    assert redis.lrange(QUEUE_KEY, 0, -1) == [rq_job_id(ID, 1)]
    assert redis.smembers(slots_key(TENANT)) == {ID}
    assert redis.zrange(waiting_key(TENANT), 0, -1) == [OTHER_ID]


def test_finished_job_releases_its_slot_and_makes_the_next_one_due(redis: Redis) -> None:
    for job_id in (ID, OTHER_ID):
        request = slot_request(redis, job_id)
        create(redis, job_id, request.rq_job.data, slot_request=request.arguments)
    assert cast(float, redis.zscore(OPEN, f"{TENANT}/{OTHER_ID}")) > now_ms(redis)
    change(redis, state_machine.CANCEL)
    assert redis.scard(slots_key(TENANT)) == 0
    assert redis.zscore(OPEN, f"{TENANT}/{OTHER_ID}") == 0


def test_enqueue_attempt_ignores_a_job_that_is_not_queued(redis: Redis) -> None:
    bring_to(redis, "cancelled")
    request = slot_request(redis)
    arguments: list[str | bytes] = [TENANT, ID, json.dumps(request.arguments), request.rq_job.data]
    assert load_script(redis, PACKAGE, "enqueue_attempt")(keys=keys_of(TENANT, ID), args=arguments) == 0
    assert (redis.llen(QUEUE_KEY), redis.scard(slots_key(TENANT)), redis.zcard(waiting_key(TENANT))) == (0, 0, 0)


def test_enqueue_attempt_sorts_the_queue_by_rank(redis: Redis) -> None:
    run, ids = load_script(redis, PACKAGE, "enqueue_attempt"), [ID, OTHER_ID, "01JABCDEFGHJKMNPQRSTVWXYZ2"]
    for job_id, rank in zip(ids, sorted(RANKS.values(), reverse=True), strict=True):
        create(redis, job_id)
        request = slot_request(redis, job_id, limit=3, rank=rank)
        rq_job = request.arguments["rq_job"] | {"rank": rank}
        arguments: list[str | bytes] = [TENANT, job_id, json.dumps(request.arguments | {"rq_job": rq_job}), b"{}"]
        assert run(keys=keys_of(TENANT, job_id), args=arguments) == 1
    assert redis.lrange(QUEUE_KEY, 0, -1) == [rq_job_id(job_id, 1) for job_id in reversed(ids)]


def test_defer_checks_defers_queued_jobs_that_the_queue_contains(redis: Redis) -> None:
    for job_id in (ID, OTHER_ID):
        create(redis, job_id, check_after_ms=0)
    redis.rpush(QUEUE_KEY, rq_job_id(ID, 1))
    run = load_script(redis, PACKAGE, "defer_checks")
    arguments: list[str | int] = [20_000, 0, 10, job_key("%s", "%s")]
    assert run(keys=[OPEN, QUEUE_KEY], args=arguments) == [2, 1]
    assert cast(float, redis.zscore(OPEN, MEMBER)) > now_ms(redis)


def test_delete_job_removes_every_trace_once(redis: Redis) -> None:
    request = slot_request(redis)
    create(redis, data=request.rq_job.data, slot_request=request.arguments)
    for _ in range(2):
        load_script(redis, PACKAGE, "delete_job")(keys=keys_of(TENANT, ID), args=[TENANT, ID, *JobStatus])
    assert redis.hget(COUNTERS, "slim_jobs|queued") == "0"
    assert redis.zcard(OPEN) == 0
    assert not redis.exists(*keys_of(TENANT, ID))


def test_change_of_status_sends_a_message_where_the_request_has_a_webhook(redis: Redis) -> None:
    create(redis)
    request = REQUEST.model_dump(mode="json") | {"webhook": {"url": "https://example.com/hook"}}
    redis.hset(job_key(TENANT, ID), "request", json.dumps(request))
    change(redis, state_machine.LEASE, attempt=0, worker="one")
    change(redis, state_machine.RENEW, attempt=1, event={"type": "log", "data": "{}"})
    [message] = cast(list[str], redis.zrange(WEBHOOKS, 0, -1))
    assert message.startswith(f"{MEMBER}/")


def test_claim_of_an_idempotency_key_runs_out_by_the_clock_of_redis(redis: Redis) -> None:
    run = load_script(redis, PACKAGE, "claim_idempotency_key")

    def claim(fingerprint: str, job_id: str, claim_ms: int = 60_000) -> list[str]:
        return cast(list[str], run(keys=["key"], args=[fingerprint, job_id, claim_ms, 90_000]))

    assert claim("one", "a") == ["claimed", "a"]
    outcome, left = claim("one", "b")
    assert (outcome, 0 < int(left) <= 60_000) == ("in_progress", True)
    assert claim("two", "b") == ["reused", ""]
    redis.hset("key", "until", now_ms(redis))
    assert claim("one", "b") == ["claimed", "a"]
    redis.hset("key", "answer", "{}")
    assert claim("one", "b") == ["answered", "{}"]
