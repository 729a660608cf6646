"""The reconciler: jobs whose worker died, and jobs that the queue lost."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest
import structlog
from redis import Redis
from structlog.contextvars import merge_contextvars

from service.contract.answers.job import JobStatus
from service.contract.answers.resources import Manifest
from service.infrastructure.redis_keys import OPEN, job_key, open_member
from service.jobs.leases import Lease, LeaseLost
from service.jobs.queue import JobQueue
from service.jobs.reconciler import LOCK, Reconciler, reconciling
from service.jobs.record import JobRecord, new_record
from service.jobs.rq_jobs import rq_job_id
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage.keys import attempt_prefix, job_prefix, manifest_key
from service.storage.object_store import Storage
from tests.support.contract_examples import REQUEST, make_checks_due, report
from tests.support.s3_server import credentials
from tests.support.waiting import wait_until

Look = Callable[[], JobRecord]


@pytest.fixture
def job(job_store: JobStore, queue: JobQueue) -> JobRecord:
    record = job_store.accept(new_record(REQUEST))
    queue.enqueue(record)
    return record


@pytest.fixture
def look(redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings, job: JobRecord) -> Look:
    """Let all leases run out, check all due jobs once, and return the job."""
    reconciler = Reconciler(job_store, queue, settings)

    def look() -> JobRecord:
        make_checks_due(redis)
        reconciler.check_due_jobs()
        return job_store.get(job.tenant, job.id)

    return look


def take(queue: JobQueue, job_store: JobStore, job: JobRecord, attempt: int = 1) -> Lease:
    """Take the attempt from the queue and lease it, as a worker does."""
    queue.redis.lpop("rq:queue:slim")
    return job_store.lease(job.tenant, job.id, attempt, f"w{attempt}")


def store(storage: Storage, job: JobRecord, attempt: int, *, committed: bool) -> None:
    """Store the files of an attempt and, if committed, its manifest."""
    text = report(job, attempt).model_dump_json().encode()
    storage.put_bytes(text, attempt_prefix(job.tenant, job.id, attempt) + "report.json")
    if committed:
        manifest = Manifest(job_id=job.id, attempt=attempt, files=[])
        storage.put_if_absent(manifest.model_dump_json().encode(), manifest_key(job.tenant, job.id))


def test_job_in_the_queue_is_left_alone(look: Look, queue: JobQueue) -> None:
    assert (look().status, look().lost, queue.depth()) == (JobStatus.queued, 0, 1)


def test_checks_of_a_long_queue_leave_the_lost_job_due(
    redis: Redis, job_store: JobStore, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.queue.DEFER_AT_ONCE", 2)
    jobs = [job_store.accept(new_record(REQUEST), max_running=9) for _ in range(7)]
    lease = take(queue, job_store, jobs[0])
    queue.redis.lrem("rq:queue:slim", 1, rq_job_id(jobs[3].id, 1))
    make_checks_due(redis)
    queue.defer_checks(job_store.check_after_ms)
    assert {record.id for record in job_store.overdue()} == {lease.job.id, jobs[3].id}


def test_rq_job_of_an_older_attempt_does_not_defer_the_check(
    redis: Redis, job_store: JobStore, queue: JobQueue, job: JobRecord
) -> None:
    job_store.hand_back(take(queue, job_store, job))
    queue.redis.rpush("rq:queue:slim", rq_job_id(job.id, 1))
    make_checks_due(redis)
    queue.defer_checks(job_store.check_after_ms)
    assert [record.id for record in job_store.overdue()] == [job.id]


def test_job_that_the_queue_lost_is_enqueued_again(look: Look, queue: JobQueue) -> None:
    queue.redis.delete("rq:queue:slim")
    assert (look().status, queue.depth()) == (JobStatus.queued, 1)


@pytest.mark.parametrize("damage", [{"request": "{"}, {"request": "{}"}, {"status": "odd"}, {"attempt:1": "1"}])
def test_unreadable_record_does_not_stop_the_check_of_other_jobs(
    damage: dict[str, str], look: Look, queue: JobQueue, job_store: JobStore, redis: Redis
) -> None:
    older = job_store.accept(new_record(REQUEST))
    for field, value in damage.items():
        redis.hset(job_key(older.tenant, older.id), field, value)
    queue.redis.delete("rq:queue:slim")
    with structlog.testing.capture_logs() as logs:
        assert (look().status, queue.depth()) == (JobStatus.queued, 1)
    assert [line["job"] for line in logs if line["event"] == "record unreadable"] == [f"{older.tenant}/{older.id}"]
    assert job_store.overdue() == []


def test_unexpected_error_does_not_stop_the_check_of_other_jobs(
    look: Look, queue: JobQueue, job_store: JobStore, job: JobRecord, storage: Storage, redis: Redis
) -> None:
    older = job_store.accept(new_record(REQUEST))
    job_store.lease(older.tenant, older.id, 1, "w")
    storage.put_bytes(b"{}", manifest_key(older.tenant, older.id))
    queue.redis.delete("rq:queue:slim")
    with structlog.testing.capture_logs([merge_contextvars]) as logs:
        assert (look().status, queue.depth()) == (JobStatus.queued, 1)
    assert [line["job_id"] for line in logs if line["event"] == "job not reconciled"] == [older.id]


def test_log_line_has_job_tenant_attempt_and_request(
    redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings
) -> None:
    made = new_record(REQUEST, tenant="search").model_copy(update={"request_id": "r-1"})
    job_store.lease("search", job_store.accept(made).id, 1, "w")
    make_checks_due(redis)
    with structlog.testing.capture_logs([merge_contextvars]) as logs:
        Reconciler(job_store, queue, settings).check_due_jobs()
    (line,) = [line for line in logs if line["event"] == "attempt lost"]
    named = {"job_id": made.id, "tenant": "search", "attempt": 1, "request_id": "r-1"}
    assert named.items() <= line.items()


def test_lost_attempt_is_followed_by_another(look: Look, queue: JobQueue, job_store: JobStore, job: JobRecord) -> None:
    lease = take(queue, job_store, job)
    after = look()
    assert (after.status, after.attempt, after.lost, queue.depth()) == (JobStatus.queued, 1, 1, 1)
    with pytest.raises(LeaseLost):
        job_store.heartbeat(lease)
    assert take(queue, job_store, job, attempt=2).attempt == 2


def test_job_that_loses_every_worker_fails_and_leaves_no_files(
    look: Look, queue: JobQueue, job_store: JobStore, job: JobRecord, storage: Storage, settings: Settings
) -> None:
    for attempt in range(1, settings.max_attempts + 1):
        take(queue, job_store, job, attempt)
        store(storage, job, attempt, committed=False)
        after = look()
    assert after.error is not None
    assert (after.status, after.error.code, after.attempt) == (JobStatus.failed, "worker_lost", settings.max_attempts)
    assert storage.list(job_prefix(job.tenant, job.id)) == []
    assert queue.depth() == 0


def test_job_with_a_manifest_succeeds_without_another_attempt(
    look: Look, queue: JobQueue, job_store: JobStore, job: JobRecord, storage: Storage
) -> None:
    take(queue, job_store, job)
    store(storage, job, 1, committed=True)
    after = look()
    assert (after.status, after.result) == (JobStatus.succeeded, report(job, 1).result)
    assert storage.exists(attempt_prefix(job.tenant, job.id, 1) + "report.json")


def test_cancelling_job_of_a_dead_worker_is_cancelled(
    look: Look, queue: JobQueue, job_store: JobStore, job: JobRecord, storage: Storage
) -> None:
    take(queue, job_store, job)
    store(storage, job, 1, committed=True)
    job_store.cancel(job.tenant, job.id)
    after = look()
    assert (after.status, after.result, queue.depth()) == (JobStatus.cancelled, None, 0)
    assert storage.list(job_prefix(job.tenant, job.id)) == []


def test_job_past_its_deadline_gets_no_further_attempt(
    look: Look, redis: Redis, queue: JobQueue, job_store: JobStore, job: JobRecord
) -> None:
    take(queue, job_store, job)
    redis.hincrby(f"slim:{job.tenant}:job:{job.id}", "started_at", -4_000_000)
    error = look().error
    assert error is not None
    assert error.code == "deadline_exceeded"


def test_job_with_a_renewed_lease_is_left_alone(
    redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings, job: JobRecord
) -> None:
    lease = take(queue, job_store, job)
    make_checks_due(redis)
    job_store.heartbeat(lease)
    Reconciler(job_store, queue, settings).check_due_jobs()
    assert job_store.get(job.tenant, job.id) == lease.job


def test_reconciler_does_nothing_while_another_has_the_lock(look: Look, redis: Redis, queue: JobQueue) -> None:
    queue.redis.delete("rq:queue:slim")
    with redis.lock(LOCK, timeout=60):
        assert look().lost == 0
    assert look().lost == 1


@dataclass
class SilentServer:
    """A server that accepts connections and answers none until it is closed."""

    listener: socket.socket
    connections: list[socket.socket]

    def accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self.connections.append(self.listener.accept()[0])

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def slow_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentServer]:
    """The server behind `s3://slow`."""
    server = SilentServer(socket.create_server(("127.0.0.1", 0)), [])
    port = server.listener.getsockname()[1]
    for name, value in credentials(f"http://127.0.0.1:{port}").items():
        monkeypatch.setenv(name, value)
    thread = threading.Thread(target=server.accept)
    thread.start()
    yield server
    with suppress(OSError):  # closed by the test
        server.close()
    thread.join()


def test_two_reconcilers_never_work_at_once_when_storage_is_slow(
    redis: Redis,
    job_store: JobStore,
    queue: JobQueue,
    settings: Settings,
    slow_storage: SilentServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.jobs.reconciler.LOCK_SECONDS", 3.0)
    started, waiting = (job_store.accept(new_record(REQUEST)) for _ in range(2))
    job_store.lease(started.tenant, started.id, 1, "w")
    make_checks_due(redis)
    slow = Reconciler(job_store, queue, settings.model_copy(update={"storage_url": "s3://slow"}))
    other = Reconciler(JobStore(redis), queue, settings)
    with structlog.testing.capture_logs() as lines, ThreadPoolExecutor(1) as pool:
        working = pool.submit(slow.check_due_jobs)
        wait_until(lambda: slow_storage.connections)
        end = redis.time()[0] + 4  # longer than the lock would last without renewal
        while redis.time()[0] <= end:
            other.check_due_jobs()
            assert queue.depth() == 0
        slow_storage.close()
        working.result(60)
    assert [line["event"] for line in lines] == ["storage does not say whether the job has a result"]
    assert queue.contains(waiting)


def test_reconciler_stops_when_its_lock_is_lost(
    redis: Redis,
    job_store: JobStore,
    queue: JobQueue,
    settings: Settings,
    slow_storage: SilentServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.jobs.reconciler.LOCK_SECONDS", 1.5)
    started, waiting = (job_store.accept(new_record(REQUEST)) for _ in range(2))
    job_store.lease(started.tenant, started.id, 1, "w")
    redis.zadd(OPEN, {open_member(job.tenant, job.id): due for due, job in enumerate([started, waiting])})
    reconciler = Reconciler(job_store, queue, settings.model_copy(update={"storage_url": "s3://slow"}))
    with structlog.testing.capture_logs() as lines, ThreadPoolExecutor(1) as pool:
        working = pool.submit(reconciler.check_due_jobs)
        wait_until(lambda: slow_storage.connections)
        redis.set(LOCK, "another")
        wait_until(lambda: any(line["event"] == "lock lost" for line in lines))
        slow_storage.close()
        working.result(60)
    assert "reconciler stopped, because its lock may have expired" in [line["event"] for line in lines]
    assert not queue.contains(waiting)


def test_failing_storage_is_asked_once_in_a_check_of_all_jobs(
    redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings, slow_storage: SilentServer
) -> None:
    slow_storage.close()
    started = [job_store.accept(new_record(REQUEST)) for _ in range(5)]
    for job in started:
        job_store.lease(job.tenant, job.id, 1, job.id)
    waiting = job_store.accept(new_record(REQUEST))
    make_checks_due(redis)
    with structlog.testing.capture_logs() as lines:
        Reconciler(job_store, queue, settings.model_copy(update={"storage_url": "s3://slow"})).check_due_jobs()
    assert len([line for line in lines if line["event"] == "storage does not say whether the job has a result"]) == 1
    assert {job_store.get(job.tenant, job.id).status for job in started} == {JobStatus.running}
    assert queue.contains(waiting)


def test_reconciler_thread_goes_on_after_a_failure(
    redis: Redis, job_store: JobStore, queue: JobQueue, settings: Settings, job: JobRecord
) -> None:
    take(queue, job_store, job)
    redis.rename(OPEN, "aside")
    redis.set(OPEN, "not a sorted set")
    with structlog.testing.capture_logs() as lines, reconciling(settings):
        wait_until(lambda: any(line["event"] == "background step failed" for line in lines))
        redis.rename("aside", OPEN)
        make_checks_due(redis)
        wait_until(lambda: job_store.get(job.tenant, job.id).status is JobStatus.queued)
