"""The store of jobs: its operations, and who may write."""

import asyncio
from collections.abc import Callable
from datetime import UTC

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from service.contract.answers.job import Event, JobError, JobStatus, Progress, Stage
from service.contract.errors import Conflict, InvalidRequest, NotFound
from service.infrastructure.redis_client import connect, connect_async, now_ms
from service.infrastructure.redis_keys import OPEN, index_key
from service.jobs.events import follow_events
from service.jobs.leases import Lease, LeaseLost
from service.jobs.record import EPOCH, JobRecord, new_record
from service.jobs.store import JobStore, check_finished
from tests.support.contract_examples import REQUEST, make_checks_due, result

ERROR = JobError(code="invalid_data", message="line 3 is no JSON", param="task.calibration")
TERMINAL = {status for status in JobStatus if status.is_terminal}
LEGAL = {
    JobStatus.queued: {JobStatus.running, JobStatus.cancelled, JobStatus.failed},
    JobStatus.running: {JobStatus.queued, JobStatus.cancelling, JobStatus.succeeded, JobStatus.failed},
    JobStatus.cancelling: {JobStatus.cancelled},
}


@pytest.fixture
def job_store(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def job(job_store: JobStore) -> JobRecord:
    return job_store.accept(new_record(REQUEST))


@pytest.fixture
def lease(job_store: JobStore, job: JobRecord) -> Lease:
    return job_store.lease(job.tenant, job.id, 1, "w")


def test_new_job_is_queued(job_store: JobStore, job: JobRecord) -> None:
    assert job_store.get(job.tenant, job.id) == job
    assert (job.status, job.attempt, job.request) == (JobStatus.queued, 0, REQUEST)


def test_job_is_created_at_redis_time(redis: Redis, job_store: JobStore) -> None:
    before = now_ms(redis)
    job = job_store.accept(new_record(REQUEST).model_copy(update={"created_at": EPOCH}))
    assert before <= job.created_at.timestamp() * 1000 <= now_ms(redis)
    assert (job.created_at.tzinfo, job_store.get(job.tenant, job.id).created_at) == (UTC, job.created_at)


def test_second_creation_of_a_job_changes_nothing(job_store: JobStore, lease: Lease) -> None:
    again = new_record(REQUEST, job_id=lease.job.id)
    assert job_store.accept(again) == lease.job
    assert len(job_store.events(lease.job.tenant, lease.job.id)) == 2


def test_job_of_another_tenant_is_not_found(job_store: JobStore, job: JobRecord) -> None:
    for ask in (job_store.get, job_store.events, job_store.cancel):
        with pytest.raises(NotFound):
            ask("other", job.id)


def test_job_runs_and_succeeds(job_store: JobStore, lease: Lease) -> None:
    job = lease.job
    assert job_store.set_stage(lease, Stage.attribute, Progress(fraction=0.4)) is JobStatus.running
    job_store.progress(lease, Progress(fraction=0.5, done=1, total=2, unit="examples", eta_seconds=3))
    assert job_store.get(job.tenant, job.id).progress.eta_seconds == 3
    assert job_store.succeed(lease, result()) is JobStatus.succeeded
    ended = job_store.get(job.tenant, job.id)
    assert (ended.result, ended.progress.fraction, ended.error) == (result(), 1, None)
    assert ended.created_at <= (ended.started_at or ended.created_at) <= (ended.finished_at or ended.created_at)
    events = job_store.events(job.tenant, job.id)
    assert [event.type for event in events] == ["status", "status", "stage", "progress", "status"]
    assert [event.data.get("status") for event in events if event.type == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]


def test_failed_job_has_its_error(job_store: JobStore, lease: Lease) -> None:
    assert job_store.fail(lease, ERROR) is JobStatus.failed
    assert job_store.get(lease.job.tenant, lease.job.id).error == ERROR
    assert job_store.events(lease.job.tenant, lease.job.id)[-1].data["error"]["code"] == "invalid_data"


def test_repeated_call_returns_the_same_status(job_store: JobStore, job: JobRecord) -> None:
    for _ in range(2):
        lease = job_store.lease(job.tenant, job.id, 1, "w")
    for _ in range(2):
        assert job_store.succeed(lease, result()) is JobStatus.succeeded
    assert len(job_store.events(job.tenant, job.id)) == 3


def test_attempt_is_leased_once_and_in_order(job_store: JobStore, lease: Lease) -> None:
    for attempt in (0, 1, 2):
        with pytest.raises(LeaseLost):
            job_store.lease(lease.job.tenant, lease.job.id, attempt, "another")


def test_stale_attempt_writes_nothing(redis: Redis, job_store: JobStore, lease: Lease) -> None:
    job = lease.job
    make_checks_due(redis)
    assert job_store.requeue_overdue(job_store.get(job.tenant, job.id))
    writes: list[Callable[[], object]] = [
        lambda: job_store.heartbeat(lease),
        lambda: job_store.progress(lease, Progress(fraction=1)),
        lambda: job_store.set_stage(lease, Stage.upload, Progress(fraction=1)),
        lambda: job_store.log(lease, "still here"),
        lambda: job_store.succeed(lease, result()),
        lambda: job_store.fail(lease, ERROR),
        lambda: job_store.hand_back(lease),
    ]
    queued = job_store.get(job.tenant, job.id)
    assert (queued.status, queued.lost) == (JobStatus.queued, 1)
    for write in writes[:-1]:  # to hand back what is in the queue already is no change
        with pytest.raises(LeaseLost):
            write()
    assert job_store.get(job.tenant, job.id) == queued
    second = job_store.lease(job.tenant, job.id, 2, "w2").job
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert job_store.get(job.tenant, job.id) == second


def test_cancelled_queued_job_ends_at_once(job_store: JobStore, job: JobRecord) -> None:
    assert job_store.cancel(job.tenant, job.id).status is JobStatus.cancelled
    assert job_store.cancel(job.tenant, job.id).status is JobStatus.cancelled
    with pytest.raises(LeaseLost):
        job_store.lease(job.tenant, job.id, 1, "w")


def test_cancelled_running_job_tells_its_worker(job_store: JobStore, lease: Lease) -> None:
    job = lease.job
    assert job_store.cancel(job.tenant, job.id).status is JobStatus.cancelling
    assert job_store.heartbeat(lease) is JobStatus.cancelling
    assert job_store.succeed(lease, result()) is JobStatus.cancelled
    assert job_store.get(job.tenant, job.id).result is None
    assert job_store.cancel(job.tenant, job.id).status is JobStatus.cancelled


def test_only_a_finished_job_can_be_deleted(job_store: JobStore, lease: Lease) -> None:
    job = lease.job
    with pytest.raises(Conflict):
        check_finished(job_store.get(job.tenant, job.id))
    job_store.fail(lease, ERROR)
    check_finished(job_store.get(job.tenant, job.id))
    job_store.remove(job.tenant, job.id)
    with pytest.raises(NotFound):
        job_store.get(job.tenant, job.id)
    assert job_store.page(job.tenant).records == []


def test_job_without_heartbeats_is_overdue(redis: Redis, lease: Lease) -> None:
    job = lease.job
    job_store = JobStore(redis)
    assert job_store.overdue() == []
    assert not job_store.requeue_overdue(job)
    job_store.expire_lease(job.tenant, job.id, 1)
    assert [record.id for record in job_store.overdue()] == [job.id]
    job_store.heartbeat(lease)
    assert job_store.overdue() == []


def test_pages_list_every_job_newest_first(job_store: JobStore) -> None:
    jobs = sorted((job_store.accept(new_record(REQUEST)).id for _ in range(7)), reverse=True)
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = job_store.page("default", cursor=cursor, limit=3)
        found += [record.id for record in page.records]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == jobs


def test_pages_are_filtered_by_status_and_tag(job_store: JobStore, job: JobRecord) -> None:
    running = job_store.accept(new_record(REQUEST.model_copy(update={"tags": {"team": "ads"}})))
    job_store.lease(running.tenant, running.id, 1, "w")

    def ids(**filters: object) -> list[str]:
        return [record.id for record in job_store.page("default", limit=1, **filters).records]  # type: ignore[arg-type]

    assert ids(status=JobStatus.queued) == [job.id]
    assert ids(status=JobStatus.running) == [running.id]
    assert ids(tag=("team", "search")) == [job.id]
    assert ids(tag=("team", "none")) == []


@pytest.mark.parametrize("cursor", ["", "x", "1" * 40, "(+"])
def test_invalid_cursor_is_refused(job_store: JobStore, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        job_store.page("default", cursor=cursor)


@pytest.mark.parametrize("after", ["x", "1-2-3", "-", "9" * 30])
def test_invalid_event_id_is_refused(job_store: JobStore, job: JobRecord, after: str) -> None:
    with pytest.raises(InvalidRequest):
        job_store.events(job.tenant, job.id, after=after)


def test_events_are_resumed_after_the_last_one(job_store: JobStore, lease: Lease) -> None:
    job = lease.job
    job_store.fail(lease, ERROR)
    first, *rest = job_store.events(job.tenant, job.id)
    assert job_store.events(job.tenant, job.id, after=first.id) == rest


def test_follower_gets_every_event_up_to_the_end(job_store: JobStore, lease: Lease, redis_server: str) -> None:
    job = lease.job

    async def watch() -> list[Event]:
        redis = connect_async(redis_server, connections=1)
        seen: list[Event] = []
        async for event in follow_events(redis, job.tenant, job.id):
            seen.append(event)
            if len(seen) == 2:  # all that has happened so far; the rest comes while it waits
                await asyncio.to_thread(job_store.log, lease, "half way")
                await asyncio.to_thread(job_store.fail, lease, ERROR)
        behind_the_end = [event async for event in follow_events(redis, job.tenant, job.id, after=seen[-1].id)]
        await redis.aclose()
        return seen + behind_the_end

    assert asyncio.run(watch()) == job_store.events(job.tenant, job.id)


class RecordMachine(RuleBasedStateMachine):
    """Any order of calls by clients, workers and reconcilers on a few jobs."""

    jobs: Bundle[str] = Bundle("jobs")
    leases: Bundle[Lease] = Bundle("leases")
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.redis = connect(self.url)
        self.redis.flushall()
        self.job_store = JobStore(self.redis)
        self.seen: dict[str, JobRecord] = {}
        self.workers = 0

    def teardown(self) -> None:
        self.redis.close()

    def observe(self, job_id: str, writer: Lease | None = None) -> None:
        """The move that was made is legal, and a stale attempt has made none."""
        before, after = self.seen[job_id], self.job_store.get("default", job_id)
        if writer is not None and writer.attempt != before.attempt:
            assert after == before
        if after.status is not before.status:
            assert after.status in LEGAL[before.status]
        assert after.attempt - before.attempt in (0, 1)
        assert after.status is not JobStatus.succeeded or after.result is not None
        assert (after.status in TERMINAL) == (after.finished_at is not None)
        if before.status in TERMINAL:
            assert after == before
        self.seen[job_id] = after

    @rule(target=jobs)
    def create(self) -> str:
        record = self.job_store.accept(new_record(REQUEST))
        self.seen[record.id] = record
        return record.id

    @rule(job_id=jobs)
    def create_again(self, job_id: str) -> None:
        assert self.job_store.accept(new_record(REQUEST, job_id=job_id)) == self.seen[job_id]
        self.observe(job_id)

    @rule(job_id=jobs, attempt=st.integers(0, 4))
    def expire_lease(self, job_id: str, attempt: int) -> None:
        self.job_store.expire_lease("default", job_id, attempt)
        assert self.job_store.get("default", job_id) == self.seen[job_id]

    @rule(target=leases, job_id=jobs, attempt=st.integers(0, 4))
    def lease(self, job_id: str, attempt: int) -> Lease | MultipleResults[Lease]:
        self.workers += 1
        expected = self.seen[job_id].status is JobStatus.queued and attempt == self.seen[job_id].attempt + 1
        try:
            lease = self.job_store.lease("default", job_id, attempt, f"w{self.workers}")
        except LeaseLost:
            assert not expected
            self.observe(job_id)
            return multiple()
        assert expected
        self.observe(job_id)
        return lease

    @rule(
        lease=leases,
        write=st.sampled_from(
            ["heartbeat", "progress", "set_stage", "succeed", "fail", "hand_back", "confirm_cancelled"]
        ),
    )
    def write(self, lease: Lease, write: str) -> None:
        extra: dict[str, tuple[object, ...]] = {
            "progress": (Progress(fraction=0.5),),
            "set_stage": (Stage.slice, Progress(fraction=0.5)),
            "succeed": (result(),),
            "fail": (ERROR,),
        }
        before = self.seen[lease.job.id]
        try:
            status = getattr(self.job_store, write)(lease, *extra.get(write, ()))
        except LeaseLost:
            assert self.job_store.get("default", lease.job.id) == before
        else:
            assert lease.attempt == before.attempt
            assert status is self.job_store.get("default", lease.job.id).status
        self.observe(lease.job.id, lease)

    @rule(job_id=jobs)
    def cancel(self, job_id: str) -> None:
        self.job_store.cancel("default", job_id)
        self.observe(job_id)

    @rule(
        job_id=jobs,
        stale=st.booleans(),
        step=st.sampled_from(["requeue_overdue", "fail_overdue", "succeed_overdue", "defer_overdue"]),
    )
    def reconcile(self, job_id: str, stale: bool, step: str) -> None:
        if stale:
            make_checks_due(self.redis)
        before = self.seen[job_id]
        extra: dict[str, tuple[object, ...]] = {"fail_overdue": (ERROR,), "succeed_overdue": (result(),)}
        getattr(self.job_store, step)(before, *extra.get(step, ()))
        self.observe(job_id)

    @invariant()
    def lists_agree_with_records(self) -> None:
        if not self.seen:
            return
        unfinished = {f"default/{job_id}" for job_id, record in self.seen.items() if record.status not in TERMINAL}
        assert set(self.redis.zrange(OPEN, 0, -1)) == unfinished
        listed = [self.redis.zrange(index_key("default", status), 0, -1) for status in JobStatus]
        assert sorted(job_id for ids in listed for job_id in ids) == sorted(self.seen)
        for record in self.seen.values():
            last = self.job_store.events("default", record.id, limit=2000)
            statuses = [event.data["status"] for event in last if event.type == "status"]
            assert statuses[-1] == record.status


def test_no_order_of_calls_leaves_an_illegal_state(redis: Redis, redis_server: str) -> None:
    class Machine(RecordMachine):
        url = redis_server

    limits = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Machine, settings=limits)
