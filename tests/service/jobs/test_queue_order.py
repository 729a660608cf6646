"""The order of the queue by priority and age, and the slots of tenants."""

import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.contract.answers.job import AttemptOutcome, JobError, JobStatus
from service.contract.request.job_request import Priority
from service.infrastructure.redis_client import connect
from service.infrastructure.redis_keys import OPEN
from service.jobs.queue import JobQueue
from service.jobs.reconciler import Reconciler
from service.jobs.record import JobRecord, new_record
from service.jobs.rq_jobs import QUEUE, rq_job_id
from service.jobs.store import JobStore
from service.jobs.tenant_slots import TenantSlots
from service.settings import Settings
from tests.support.requests import plain_request

LIST = f"rq:queue:{QUEUE}"
ERROR = JobError(code="invalid_data", message="line 3")


@pytest.fixture
def transport(redis: Redis, redis_server: str) -> Iterator[Redis]:
    with connect(redis_server, decode=False) as client:
        yield client


def add(redis: Redis, queue: JobQueue, priority: Priority = Priority.normal, tenant: str = "search") -> JobRecord:
    record = JobStore(redis).accept(new_record(plain_request(priority=priority), tenant=tenant))
    queue.enqueue(record)
    return record


def queued(redis: Redis) -> list[str]:
    """The ids of the jobs in the queue, the next one first."""
    return [entry.rpartition("-")[0] for entry in cast(list[str], redis.lrange(LIST, 0, -1))]


@given(st.lists(st.sampled_from(list(Priority)), max_size=12))
def test_queue_is_sorted_by_priority_and_age(redis_server: str, priorities: list[Priority]) -> None:
    with connect(redis_server) as redis, connect(redis_server, decode=False) as transport:
        redis.flushall()
        queue = JobQueue(transport)
        jobs = [add(redis, queue, priority) for priority in priorities]
        order = list(Priority)
        expected = sorted(jobs, key=lambda job: (order.index(job.request.priority), jobs.index(job)))
        assert queued(redis) == [job.id for job in expected]


def test_requeued_job_goes_first_among_its_priority(redis: Redis, transport: Redis) -> None:
    queue, job_store = JobQueue(transport), JobStore(redis)
    hurt = add(redis, queue)
    redis.lpop(LIST)
    lease = job_store.lease(hurt.tenant, hurt.id, 1, "w")
    equal, higher = add(redis, queue), add(redis, queue, Priority.high)
    job_store.hand_back(lease)
    queue.enqueue(job_store.get(hurt.tenant, hurt.id))
    later = add(redis, queue)
    assert queued(redis) == [higher.id, hurt.id, equal.id, later.id]


def test_job_that_a_worker_has_taken_is_not_enqueued_again(redis: Redis, transport: Redis) -> None:
    queue = JobQueue(transport)
    job = add(redis, queue)
    redis.lpop(LIST)
    queue.enqueue(job)
    assert queued(redis) == []


def test_created_job_is_in_the_queue_at_once(redis: Redis, transport: Redis) -> None:
    job_store = JobStore(redis)
    first, second = (job_store.accept(new_record(plain_request(), tenant="search"), max_running=1) for _ in range(2))
    assert queued(redis) == [first.id]
    assert JobQueue(transport).contains(first)
    assert not TenantSlots(redis, 1).has("search", second.id)


def test_repeated_request_enqueues_no_old_attempt(redis: Redis, transport: Redis) -> None:
    job_store, again = JobStore(redis), new_record(plain_request(), tenant="search")
    job_store.accept(again, max_running=1)
    redis.lpop(LIST)
    job_store.hand_back(job_store.lease("search", again.id, 1, "worker"))
    redis.delete(f"rq:job:{rq_job_id(again.id, 1)}")
    assert job_store.accept(again, max_running=1).attempt == 1
    assert queued(redis) == []


def test_tenant_has_no_more_jobs_with_the_workers_than_slots(redis: Redis, transport: Redis) -> None:
    queue = JobQueue(transport, max_running=2)
    jobs = [add(redis, queue) for _ in range(4)]
    other = add(redis, queue, tenant="other")
    assert queued(redis) == [jobs[0].id, jobs[1].id, other.id]


def test_free_slot_goes_to_the_first_waiting_job(redis: Redis, transport: Redis, settings: Settings) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport, max_running=1)
    first, low, normal, high = (
        add(redis, queue, priority) for priority in (Priority.normal, Priority.low, Priority.normal, Priority.high)
    )
    reconciler = Reconciler(job_store, queue, settings)
    for done, following in ((first, high), (high, normal), (normal, low)):
        assert queued(redis) == [done.id]
        redis.lpop(LIST)
        job_store.fail(job_store.lease("search", done.id, 1, f"worker of {done.id}"), ERROR)
        reconciler.check_due_jobs()
        assert queued(redis) == [following.id]
    assert job_store.get("search", low.id).lost == 0


def test_waiting_job_is_due_when_a_slot_is_free(redis: Redis, transport: Redis) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport, max_running=1)
    first, *waiting = (add(redis, queue) for _ in range(4))
    far = time.time() + job_store.check_after_ms / 1000
    silent = {member.rpartition("/")[2] for member in cast(list[str], redis.zrangebyscore(OPEN, 0, far * 1000))}
    assert silent == {first.id}
    job_store.cancel("search", first.id)
    assert [record.id for record in job_store.overdue()] == [waiting[0].id]


def test_several_free_slots_are_filled(redis: Redis, transport: Redis, settings: Settings) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport, max_running=3)
    jobs = [add(redis, queue) for _ in range(6)]
    for job in jobs[:3]:
        job_store.cancel("search", job.id)
        queue.remove(job_store.get("search", job.id))
    for _ in range(3):
        Reconciler(job_store, queue, settings).check_due_jobs()
    assert sorted(queued(redis)) == [job.id for job in jobs[3:]]


def test_waiting_job_can_be_cancelled(redis: Redis, transport: Redis, settings: Settings) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport, max_running=1)
    first, second, third = (add(redis, queue) for _ in range(3))
    assert job_store.cancel("search", second.id).status is JobStatus.cancelled
    redis.lpop(LIST)
    job_store.fail(job_store.lease("search", first.id, 1, "worker"), ERROR)
    Reconciler(job_store, queue, settings).check_due_jobs()
    assert queued(redis) == [third.id]


@pytest.mark.parametrize("put", [JobQueue.enqueue_waiting, JobQueue.enqueue])
def test_stale_record_of_a_cancelled_job_takes_no_slot(
    redis: Redis, transport: Redis, settings: Settings, put: Callable[[JobQueue, JobRecord], bool]
) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport, max_running=1)
    running, cancelled = add(redis, queue), add(redis, queue)
    job_store.cancel("search", cancelled.id)
    put(queue, cancelled)
    redis.lpop(LIST)
    job_store.fail(job_store.lease("search", running.id, 1, "worker"), ERROR)
    put(queue, cancelled)
    following = add(redis, queue)
    Reconciler(job_store, queue, settings).check_due_jobs()
    assert queued(redis) == [following.id]


def test_stale_record_of_a_running_job_is_not_enqueued(redis: Redis, transport: Redis) -> None:
    job_store, queue = JobStore(redis), JobQueue(transport)
    job = add(redis, queue)
    redis.lpop(LIST)
    job_store.lease("search", job.id, 1, "worker")
    queue.enqueue(job_store.get("search", job.id))
    assert queued(redis) == []


def hand_back(job_store: JobStore, job: JobRecord) -> None:
    job_store.hand_back(job_store.lease(job.tenant, job.id, job.attempt + 1, "one"))


def lose(job_store: JobStore, job: JobRecord) -> None:
    assert job_store.requeue_overdue(job_store.lease(job.tenant, job.id, job.attempt + 1, "two").job)


def cancel(job_store: JobStore, job: JobRecord) -> None:
    lease = job_store.lease(job.tenant, job.id, job.attempt + 1, "three")
    job_store.cancel(job.tenant, job.id)
    job_store.confirm_cancelled(lease)


def test_record_has_the_outcome_of_each_attempt(redis: Redis) -> None:
    job_store = JobStore(redis, lease_seconds=0)
    job = job_store.accept(new_record(plain_request(), tenant="search"))
    steps: list[Callable[[JobStore, JobRecord], None]] = [hand_back, lose, cancel]
    for step in steps:
        step(job_store, job_store.get("search", job.id))
    attempts = job_store.get("search", job.id).attempts
    assert [(attempt.number, attempt.outcome) for attempt in attempts] == [
        (1, AttemptOutcome.handed_back),
        (2, AttemptOutcome.lost),
        (3, AttemptOutcome.cancelled),
    ]
    assert all(attempt.finished_at and attempt.finished_at >= attempt.started_at for attempt in attempts)


def test_running_attempt_has_no_end(redis: Redis) -> None:
    job_store = JobStore(redis)
    job = job_store.accept(new_record(plain_request(), tenant="search"))
    (attempt,) = job_store.lease("search", job.id, 1, "worker").job.attempts
    assert (attempt.finished_at, attempt.outcome) == (None, None)


def test_job_expires_from_its_end_on(redis: Redis) -> None:
    job_store = JobStore(redis)
    kept = job_store.accept(new_record(plain_request(retention_days=2), tenant="search"))
    assert kept.expires_at is None
    job_store.fail(job_store.lease("search", kept.id, 1, "worker"), ERROR)
    ended = job_store.get("search", kept.id)
    assert ended.expires_at is not None
    assert ended.finished_at is not None
    assert (ended.expires_at - ended.finished_at).days == 2
