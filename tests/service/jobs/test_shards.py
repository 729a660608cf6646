"""The shards of a job in the queue and in its record, without processes that run them."""

from collections.abc import Callable
from typing import cast

import pytest
from redis import Redis
from rq.job import Job
from rq.job import JobStatus as RqStatus

from service.contract.answers.job import JobStatus, Stage
from service.jobs.leases import LeaseLost
from service.jobs.queue import JobQueue
from service.jobs.reconciler import Reconciler
from service.jobs.record import JobRecord, ShardProgress, decode, encode_whole, new_record
from service.jobs.representation import shard_counts
from service.jobs.rq_jobs import SERIALIZER, SHARD_RETRIES, RqJob, rq_job_ids
from service.jobs.shards import KnownToRq, ShardsState
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.keys import shard_key
from service.storage.object_store import Storage
from tests.support.contract_examples import REQUEST, make_checks_due

DONE = ShardProgress(fraction=0.5, done=True)
IN_SHARDS = REQUEST.model_copy(update={"method": REQUEST.method.model_copy(update={"shards": 3})})


@pytest.fixture
def job(job_store: JobStore, queue: JobQueue) -> JobRecord:
    record = job_store.accept(new_record(IN_SHARDS))
    queue.enqueue(record)
    return record


@pytest.fixture
def look(
    redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings, job: JobRecord
) -> Callable[[], JobRecord]:
    """Make the check of the job due, check it once, and return the job."""
    reconciler = Reconciler(job_store, queue, settings)

    def look() -> JobRecord:
        make_checks_due(redis)
        reconciler.check_due_jobs()
        return job_store.get(job.tenant, job.id)

    return look


def waiting(queue: JobQueue) -> list[str]:
    names = cast(list[bytes], queue.redis.lrange("rq:queue:slim", 0, -1))
    return [name.decode() for name in names]


def fetch(queue: JobQueue, name: str) -> Job:
    return RqJob.fetch(name, connection=queue.redis, serializer=SERIALIZER)


def test_last_job_depends_on_the_shards(queue: JobQueue, job: JobRecord) -> None:
    *shards, last = rq_job_ids(job, 1)
    assert waiting(queue) == shards
    deferred = fetch(queue, last)
    assert deferred.get_status() is RqStatus.DEFERRED
    assert sorted(deferred.dependency_ids) == shards
    assert deferred.enqueue_at_front
    assert [fetch(queue, name).retries_left for name in shards] == [SHARD_RETRIES] * 3
    assert [fetch(queue, name).kwargs["shard"] for name in shards] == [0, 1, 2]
    assert not deferred.dependencies_are_met()
    for name in shards:
        fetch(queue, name).set_status(RqStatus.FINISHED)
    assert deferred.dependencies_are_met()


def test_cancelled_job_leaves_nothing_with_rq(job_store: JobStore, queue: JobQueue, job: JobRecord) -> None:
    queue.remove(job_store.cancel(job.tenant, job.id))
    assert queue.redis.keys("rq:job:*") == []
    assert queue.redis.zcard("rq:deferred:slim") == 0
    assert queue.depth() == 0


def test_shards_share_the_attempt_that_the_first_of_them_starts(job_store: JobStore, job: JobRecord) -> None:
    leases = [job_store.lease_shard(job.tenant, job.id, 1, shard, f"w{shard}") for shard in (1, 0)]
    assert [(lease.attempt, lease.shard) for lease in leases] == [(1, 1), (1, 0)]
    now = job_store.get(job.tenant, job.id)
    assert (now.status, now.attempt, now.is_in_shards, now.worker) == (JobStatus.running, 1, True, "w1")
    with pytest.raises(LeaseLost):
        job_store.lease_shard(job.tenant, job.id, 2, 0, "w")


def test_plain_job_has_no_shards(job_store: JobStore) -> None:
    plain = job_store.accept(new_record(REQUEST))
    job_store.lease(plain.tenant, plain.id, 1, "w")
    with pytest.raises(LeaseLost):
        job_store.lease_shard(plain.tenant, plain.id, 1, 0, "other")
    with pytest.raises(LeaseLost):
        job_store.lease(plain.tenant, plain.id, 1, "other")


def test_shard_that_is_done_stays_done(job_store: JobStore, job: JobRecord) -> None:
    lease = job_store.lease_shard(job.tenant, job.id, 1, 2, "w")
    job_store.shard_progress(lease, ShardProgress(fraction=0.2))
    job_store.shard_progress(lease, DONE)
    now = job_store.get(job.tenant, job.id)
    assert (now.open_shards, now.shards and now.shards.done) == ([0, 1], 1)
    with pytest.raises(LeaseLost):
        job_store.lease_shard(job.tenant, job.id, 1, 2, "w")
    fields = dict(job_store.get_fields(job.tenant, job.id))
    assert decode(encode_whole(now)) == now
    assert shard_counts(IN_SHARDS.model_dump(mode="json"), fields) == now.shards


def test_stage_of_the_shards_never_goes_back(job_store: JobStore, job: JobRecord) -> None:
    first, second = (job_store.lease_shard(job.tenant, job.id, 1, shard, f"w{shard}") for shard in (0, 1))
    for lease, stage in ((first, Stage.attribute), (second, Stage.fetch)):
        job_store.shard_stage(lease, stage)
    assert job_store.get(job.tenant, job.id).stage is Stage.attribute


def test_last_job_starts_once(job_store: JobStore, job: JobRecord) -> None:
    for shard in range(3):
        job_store.shard_progress(job_store.lease_shard(job.tenant, job.id, 1, shard, f"w{shard}"), DONE)
    job_store.lease(job.tenant, job.id, 1, "last")
    assert not job_store.get(job.tenant, job.id).is_in_shards
    with pytest.raises(LeaseLost):
        job_store.lease(job.tenant, job.id, 1, "other")
    with pytest.raises(LeaseLost):
        job_store.lease_shard(job.tenant, job.id, 1, 0, "late")


def test_next_attempt_repeats_the_open_shards_alone(
    redis: Redis, job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    job_store.shard_progress(job_store.lease_shard(job.tenant, job.id, 1, 1, "w"), DONE)
    queue.remove_waiting(job_store.get(job.tenant, job.id))
    make_checks_due(redis)
    job_store.requeue_overdue(job_store.get(job.tenant, job.id))
    queue.enqueue(job_store.get(job.tenant, job.id))
    assert waiting(queue) == [f"{job.id}-2_0", f"{job.id}-2_2"]
    assert sorted(fetch(queue, f"{job.id}-2").dependency_ids) == waiting(queue)


def test_attempt_without_open_shards_is_the_last_job_alone(
    redis: Redis, job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    for shard in range(3):
        job_store.shard_progress(job_store.lease_shard(job.tenant, job.id, 1, shard, f"w{shard}"), DONE)
    queue.remove_waiting(job_store.get(job.tenant, job.id))
    make_checks_due(redis)
    job_store.requeue_overdue(job_store.get(job.tenant, job.id))
    queue.enqueue(job_store.get(job.tenant, job.id))
    assert waiting(queue) == [f"{job.id}-2"]
    job_store.lease(job.tenant, job.id, 2, "w")
    assert not job_store.get(job.tenant, job.id).is_in_shards


def test_reconciler_leaves_shards_in_the_queue_alone(
    look: Callable[[], JobRecord], job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    assert look().status is JobStatus.queued
    job_store.lease_shard(job.tenant, job.id, 1, 0, "w")
    assert (look().status, look().lost, queue.depth()) == (JobStatus.running, 0, 3)


def test_lost_shard_starts_another_attempt(
    look: Callable[[], JobRecord], job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    job_store.shard_progress(job_store.lease_shard(job.tenant, job.id, 1, 0, "w"), DONE)
    fetch(queue, f"{job.id}-1_1").delete()
    assert (look().status, look().lost) == (JobStatus.queued, 1)
    assert waiting(queue) == [f"{job.id}-2_1", f"{job.id}-2_2"]
    assert queue.redis.zrange("rq:deferred:slim", 0, -1) == [f"{job.id}-2".encode()]


def test_shard_that_rq_has_given_up_fails_the_job(
    look: Callable[[], JobRecord], job_store: JobStore, queue: JobQueue, storage: Storage, job: JobRecord
) -> None:
    job_store.lease_shard(job.tenant, job.id, 1, 0, "w")
    storage.put_bytes(b"x", shard_key(job.tenant, job.id, 0, "sums"))
    failed = fetch(queue, f"{job.id}-1_1")
    queue.redis.lrem("rq:queue:slim", 1, failed.id)
    queue.redis.zadd("rq:failed:slim", {failed.id: 2**40})
    ended = look()
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (JobStatus.failed, "worker_lost")
    assert waiting(queue) == []
    assert storage.list(f"{job.tenant}/jobs/{job.id}/") == []


def test_cancelled_job_whose_shards_wait_ends_at_the_next_check(
    look: Callable[[], JobRecord], job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    job_store.lease_shard(job.tenant, job.id, 1, 0, "w")  # its process has handed it back
    assert job_store.cancel(job.tenant, job.id).status is JobStatus.cancelling
    assert look().status is JobStatus.cancelled
    assert waiting(queue) == []
    assert queue.redis.zcard("rq:deferred:slim") == 0


@pytest.mark.parametrize(
    ("waiting", "started", "failed", "state"),
    [
        ([1, 2], [0], [], ShardsState.running),
        ([0, 1, 2], [], [], ShardsState.waiting),
        ([1], [0], [], ShardsState.lost),
        ([1], [0], [2], ShardsState.failed),
        ([], [], [], ShardsState.lost),
    ],
)
def test_state_of_shards(waiting: list[int], started: list[int], failed: list[int], state: ShardsState) -> None:
    record = new_record(IN_SHARDS).model_copy(update={"status": JobStatus.running, "attempt": 1})
    known = KnownToRq(*({f"{record.id}-1_{shard}" for shard in shards} for shards in (waiting, started, failed)))
    assert known.state_of(record) is state


def test_state_of_a_last_job() -> None:
    done = dict.fromkeys(range(3), DONE)
    record = new_record(IN_SHARDS).model_copy(
        update={"status": JobStatus.running, "attempt": 1, "shard_progress": done}
    )
    assert KnownToRq([f"{record.id}-1"], [], []).state_of(record) is ShardsState.waiting
    assert KnownToRq([], [f"{record.id}-1_2"], []).state_of(record) is ShardsState.running
    assert KnownToRq([], [], []).state_of(record) is ShardsState.lost
    summing = record.model_copy(update={"summing": [1]})
    assert KnownToRq([], [f"{record.id}-1"], []).state_of(summing) is ShardsState.running
