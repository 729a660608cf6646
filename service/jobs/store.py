"""The store of jobs: reads and changes the records in Redis, for clients, workers and the reconciler.

`service.jobs.state_machine` makes each change in one step; `service.jobs.leases` says who may write. Errors of Redis
(`redis.RedisError`) are not caught.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from redis import Redis

from service.contract.answers.job import Event, JobError, JobStatus, Progress, Stage
from service.contract.answers.result import Result
from service.contract.errors import Conflict, LimitExceeded, NotFound, UnreadableRecord
from service.contract.ids import check_cursor, first_id_at
from service.infrastructure.redis_client import now_ms
from service.infrastructure.redis_keys import OPEN, events_key, index_key, job_key
from service.jobs.events import check_event_id, parse_events
from service.jobs.leases import Lease, LeaseLost
from service.jobs.record import EPOCH, SHARD, SUMMING, JobRecord, ShardProgress, decode, encode
from service.jobs.rq_jobs import RqJobFactory
from service.jobs.state_machine import (
    CANCEL,
    CONFIRM_CANCELLED,
    DEFER,
    FAIL,
    GIVE_UP,
    HAND_BACK,
    LEASE,
    RENEW,
    REQUEUE,
    SUCCEED,
    Operation,
    StateMachine,
)
from service.jobs.tenant_slots import slot_request_for

MAX_LOG_LENGTH = 2000
OVERDUE_AT_ONCE = 1000

log = structlog.get_logger()


@dataclass(frozen=True)
class Page:
    """One page of a list of jobs, newest first. `next_cursor` is None on the last page."""

    records: list[JobRecord]
    next_cursor: str | None


class JobStore:
    """The records of all jobs. Needs a client that returns text, as `connect` of `redis_client` makes it."""

    def __init__(self, redis: Redis, *, lease_seconds: float = 20) -> None:
        self.redis = redis
        self.check_after_ms = int(lease_seconds * 1000)
        self._state_machine = StateMachine(redis)
        self._rq_jobs = RqJobFactory(redis)

    # --- for clients

    def accept(self, record: JobRecord, *, max_queued: int | None = None, max_running: int | None = None) -> JobRecord:
        """Store a new record, created at Redis' time, and its first event.

        With `max_running`, the job's first attempt is enqueued in the same step, or waits until fewer jobs of the
        tenant are with the workers; without it, the caller enqueues. A record that has this id already (the request was
        sent again) is returned unchanged. Raises LimitExceeded where the tenant has `max_queued` queued jobs.
        """
        slot_request = None if max_running is None else slot_request_for(record, max_running, self._rq_jobs)
        created = self._state_machine.create(
            record.tenant,
            encode(record),
            check_after_ms=self.check_after_ms,
            max_queued=max_queued,
            slot_request=slot_request,
        )
        if created == "full":
            raise LimitExceeded(
                f"{max_queued} jobs of this tenant are queued, the most allowed; send the request again "
                "when some have started"
            )
        if created == "exists":
            return self.get(record.tenant, record.id)
        return record.model_copy(update={"created_at": EPOCH + timedelta(milliseconds=created)})

    def get(self, tenant: str, job_id: str) -> JobRecord:
        """The record of a job. Raises NotFound, for another tenant's job too, and UnreadableRecord."""
        return decode(self.get_fields(tenant, job_id))

    def exists(self, tenant: str, job_id: str) -> bool:
        """Whether there is a record, readable or not."""
        return bool(self.redis.exists(job_key(tenant, job_id)))

    def get_fields(self, tenant: str, job_id: str) -> Mapping[str, str]:
        """The record as the hash in Redis. Raises NotFound, for another tenant's job too."""
        fields = cast(dict[str, str], self.redis.hgetall(job_key(tenant, job_id)))
        if not fields:
            raise NotFound(f"there is no job {job_id!r}")
        return fields

    def page(
        self,
        tenant: str,
        *,
        cursor: str | None = None,
        limit: int = 20,
        status: JobStatus | None = None,
        tag: tuple[str, str] | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> Page:
        """At most `limit` records older than `cursor`, newest first.

        Optionally only those of one status, with one tag, created at `since` or later, or created before `before`. A
        record that cannot be read is logged and left out.
        """
        found: list[JobRecord] = []
        ends = ([] if cursor is None else [check_cursor(cursor)]) + ([first_id_at(before)] if before else [])
        newest, oldest = min(ends, default=None), first_id_at(since) if since else None
        while len(found) <= limit:
            records, newest = self._read_index(index_key(tenant, status), tenant, (newest, oldest), limit + 1)
            found += [record for record in records if tag is None or record.tags.get(tag[0]) == tag[1]]
            if newest is None:
                break
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    def cancel(self, tenant: str, job_id: str) -> JobRecord:
        """Cancel a job: a queued one ends at once, a running one becomes `cancelling`, any other stays as it is.

        The caller removes its next attempt from the queue (`JobQueue.remove`).
        """
        self._state_machine.apply(tenant, job_id, CANCEL)
        return self.get(tenant, job_id)

    def remove(self, tenant: str, job_id: str) -> None:
        """Remove a job, whatever its record says. A worker that runs it loses its lease."""
        self._state_machine.delete(tenant, job_id)

    def events(self, tenant: str, job_id: str, *, after: str | None = None, limit: int = 100) -> list[Event]:
        """At most `limit` events after the event `after`, oldest first; `events.follow_events` waits for more.

        Raises NotFound, and InvalidRequest where `after` is not the id of an event.
        """
        self.get(tenant, job_id)
        start = f"({check_event_id(after)}" if after else "-"
        return parse_events(cast(Any, self.redis.xrange(events_key(tenant, job_id), min=start, count=limit)))

    # --- for workers: each method raises LeaseLost where the attempt is not the present one

    def lease(self, tenant: str, job_id: str, attempt: int, worker: str) -> Lease:
        """Start `attempt` of a queued job for `worker`, a name that no other process has.

        Raises LeaseLost where another worker started the attempt, or the job is finished, cancelled or deleted.
        """
        lease = self._begin(tenant, job_id, attempt, worker) or self._join(tenant, job_id, attempt)
        if lease is None or not self._is_sole(lease, worker):
            raise self._refusal(tenant, job_id, attempt)
        return lease

    def lease_shard(self, tenant: str, job_id: str, attempt: int, shard: int, worker: str) -> Lease:
        """Start a shard of an attempt, which begins with the first of them; a shard may be started again.

        Raises LeaseLost where the attempt is not the present one, its last job has started, or the shard is done.
        """
        lease = self._begin(tenant, job_id, attempt, worker) or self._join(tenant, job_id, attempt)
        if lease is None or attempt in lease.job.summing or shard not in lease.job.open_shards:
            raise self._refusal(tenant, job_id, attempt)
        return replace(lease, shard=shard)

    def _begin(self, tenant: str, job_id: str, attempt: int, worker: str) -> Lease | None:
        """The lease of an attempt of a queued job; None where it cannot be started."""
        blank = {"progress": Progress(fraction=0).model_dump_json(), "stage": ""}
        options = {"worker": worker, "fields": {"running": blank}, "check_after_ms": self.check_after_ms}
        outcome = self._state_machine.apply(tenant, job_id, LEASE, attempt=attempt - 1, **options)
        return self._leased(tenant, job_id, attempt) if outcome.verdict == "done" else None

    def _join(self, tenant: str, job_id: str, attempt: int) -> Lease | None:
        """The lease of the present attempt of a job in shards; None where it is not the present one."""
        outcome = self._state_machine.apply(tenant, job_id, RENEW, attempt=attempt)
        lease = self._leased(tenant, job_id, attempt) if outcome.verdict == "done" else None
        return lease if lease and lease.job.request.method.shards > 1 else None

    def _is_sole(self, lease: Lease, worker: str) -> bool:
        """Whether no other process has started the last job of the attempt, which adds up its shards."""
        if lease.job.request.method.shards == 1:
            return True
        key, field = job_key(lease.job.tenant, lease.job.id), f"{SUMMING}{lease.attempt}"
        is_sole = bool(self.redis.hsetnx(key, field, worker)) or self.redis.hget(key, field) == worker
        if is_sole:
            self.heartbeat(lease)  # from now on the lease is renewed as that of any job
        return is_sole

    def _leased(self, tenant: str, job_id: str, attempt: int) -> Lease:
        record = self.get(tenant, job_id)
        return Lease(record, attempt, spent_seconds=self.seconds_since_start(record))

    def _refusal(self, tenant: str, job_id: str, attempt: int) -> LeaseLost:
        status = cast(str | None, self.redis.hget(job_key(tenant, job_id), "status")) or "missing"
        return LeaseLost(f"attempt {attempt} of job {job_id} cannot start: the job is {status}")

    def heartbeat(self, lease: Lease) -> JobStatus:
        """Renew the lease. Returns `running`, or `cancelling` where the attempt is to stop.

        Shards do not defer the reconciler's check: it asks RQ about each of them.
        """
        options = {"check_after_ms": self.check_after_ms} if lease.shard is None else {}
        return self._write(lease, RENEW, **options)

    def shard_progress(self, lease: Lease, progress: ShardProgress) -> JobStatus:
        """Record how far a shard is. Returns what `heartbeat` returns."""
        fields = {f"{SHARD}{lease.shard}": progress.model_dump_json()}
        return self._write(lease, RENEW, fields=dict.fromkeys(RENEW, fields))

    def shard_stage(self, lease: Lease, stage: Stage) -> JobStatus:
        """Record the stage of a shard as that of the job, unless another shard is further."""
        now = self.get(lease.job.tenant, lease.job.id)
        order = list(Stage)
        if now.stage is not None and order.index(now.stage) >= order.index(stage):
            return self._write(lease, RENEW)
        event = {"type": "stage", "data": json.dumps({"stage": stage.value, "fraction": now.progress.fraction})}
        return self._write(lease, RENEW, fields={key: {"stage": stage.value} for key in RENEW}, event=event)

    def set_stage(self, lease: Lease, stage: Stage, progress: Progress) -> JobStatus:
        """Record the stage that begins. Returns what `heartbeat` returns."""
        fields = {"stage": stage.value, "progress": progress.model_dump_json()}
        event = {"type": "stage", "data": json.dumps({"stage": stage.value, "fraction": progress.fraction})}
        return self._write(lease, RENEW, fields=dict.fromkeys(RENEW, fields), event=event)

    def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Record the progress of the stage. Returns what `heartbeat` returns. The caller limits the rate of calls."""
        fields = {"progress": progress.model_dump_json()}
        event = {"type": "progress", "data": progress.model_dump_json()}
        return self._write(lease, RENEW, fields=dict.fromkeys(RENEW, fields), event=event)

    def log(self, lease: Lease, message: str) -> JobStatus:
        """Add a line for the user to the job's history. Returns what `heartbeat` returns."""
        event = {"type": "log", "data": json.dumps({"message": message[:MAX_LOG_LENGTH]})}
        return self._write(lease, RENEW, event=event)

    def succeed(self, lease: Lease, result: Result) -> JobStatus:
        """End the job as `succeeded`, or as `cancelled` without a result where it was cancelled before."""
        full = Progress(fraction=1, eta_seconds=0).model_dump_json()
        return self._write(lease, SUCCEED, fields={"succeeded": {"result": result.model_dump_json(), "progress": full}})

    def fail(self, lease: Lease, error: JobError) -> JobStatus:
        """End the job as `failed`, or as `cancelled` without an error where it was cancelled before."""
        return self._write(lease, FAIL, **_failure(error))

    def confirm_cancelled(self, lease: Lease) -> JobStatus:
        """End a job that is cancelling as `cancelled`."""
        return self._write(lease, CONFIRM_CANCELLED)

    def hand_back(self, lease: Lease) -> JobStatus:
        """Make the job queued again; the attempt does not count as lost. The caller enqueues the next attempt."""
        return self._write(lease, HAND_BACK, check_after_ms=self.check_after_ms)

    def seconds_since_start(self, record: JobRecord) -> float:
        """The time since the job's first attempt started; 0 before that."""
        started = record.started_at
        return now_ms(self.redis) / 1000 - started.timestamp() if started else 0.0

    # --- for the reconciler

    def overdue(self) -> list[JobRecord]:
        """At most OVERDUE_AT_ONCE unfinished jobs whose check is due: running ones without a lease, and queued ones."""
        members = cast(list[str], self.redis.zrangebyscore(OPEN, 0, now_ms(self.redis), start=0, num=OVERDUE_AT_ONCE))
        with self.redis.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.hgetall(job_key(*member.split("/")))
            found = [self._overdue(member, fields) for member, fields in zip(members, pipe.execute(), strict=True)]
        return [record for record in found if record is not None]

    def expire_lease(self, tenant: str, job_id: str, attempt: int) -> None:
        """End the lease of `attempt` now, because its process died."""
        self._state_machine.apply(tenant, job_id, RENEW, attempt=attempt, check_after_ms=0)

    def defer_overdue(self, record: JobRecord) -> bool:
        """Defer the next check of a queued job whose attempt is in the queue. False where its status has changed."""
        return self._if_overdue(record, DEFER, check_after_ms=self.check_after_ms)

    def defer_overdue_shards(self, record: JobRecord) -> bool:
        """Defer the next check of a started job whose shards are with RQ."""
        return self._if_overdue(record, RENEW, check_after_ms=self.check_after_ms)

    def requeue_overdue(self, record: JobRecord) -> bool:
        """Make an overdue job queued again and count its attempt as lost; a cancelling one is cancelled."""
        return self._if_overdue(record, REQUEUE, count_lost=True, check_after_ms=self.check_after_ms)

    def fail_overdue(self, record: JobRecord, error: JobError) -> bool:
        """Fail an overdue job; a cancelling one is cancelled."""
        return self._if_overdue(record, GIVE_UP, **_failure(error))

    def succeed_overdue(self, record: JobRecord, result: Result) -> bool:
        """End an overdue job as `succeeded`: its worker died after it wrote the manifest and before the record."""
        return self._if_overdue(record, SUCCEED, fields={"succeeded": {"result": result.model_dump_json()}})

    def _overdue(self, member: str, fields: dict[str, str]) -> JobRecord | None:
        """The record of an unfinished job. The check of one that cannot be read is deferred behind the others."""
        try:
            return decode(fields) if fields else None
        except UnreadableRecord:
            log.exception("record unreadable", job=member)
            self.redis.zadd(OPEN, {member: now_ms(self.redis) + self.check_after_ms}, xx=True)
            return None

    def _write(self, lease: Lease, operation: Operation, **options: Any) -> JobStatus:
        outcome = self._state_machine.apply(lease.job.tenant, lease.job.id, operation, attempt=lease.attempt, **options)
        if outcome.verdict != "done" or outcome.status is None:
            raise LeaseLost(f"attempt {lease.attempt} of job {lease.job.id}: {outcome.verdict}, {outcome.status}")
        return outcome.status

    def _if_overdue(self, record: JobRecord, operation: Operation, **options: Any) -> bool:
        options |= {"attempt": record.attempt, "overdue": True}
        return self._state_machine.apply(record.tenant, record.id, operation, **options).verdict == "done"

    def _read_index(
        self, index: str, tenant: str, span: tuple[str | None, str | None], limit: int
    ) -> tuple[list[JobRecord], str | None]:
        """The newest `limit` records of an index in a range of ids, and the id after which the next ones follow.

        The newest id of the range is left out. The second value is None at the end of the range.
        """
        newest, oldest = f"({span[0]}" if span[0] else "+", f"[{span[1]}" if span[1] else "-"
        ids = cast(list[str], self.redis.zrevrangebylex(index, newest, oldest, start=0, num=limit))
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(job_key(tenant, job_id))
            found = [_readable(tenant, job_id, fields) for job_id, fields in zip(ids, pipe.execute(), strict=True)]
        return [record for record in found if record is not None], ids[-1] if len(ids) == limit else None


def _readable(tenant: str, job_id: str, fields: dict[str, str]) -> JobRecord | None:
    """The record; None where there is none, or where it cannot be read, which is logged."""
    try:
        return decode(fields) if fields else None
    except UnreadableRecord:
        log.exception("record unreadable", job_id=job_id, tenant=tenant)
        return None


def check_finished(record: JobRecord) -> None:
    """Raise Conflict for a job that is not finished."""
    if not record.status.is_terminal:
        raise Conflict(f"the job is {record.status}; cancel it first")


def _failure(error: JobError) -> dict[str, Any]:
    """The options of an operation that makes a job `failed`: its field and its event."""
    text = error.model_dump_json()
    news = json.dumps({"status": JobStatus.failed, "error": error.model_dump()})
    return {"fields": {"failed": {"error": text}}, "status_events": {"failed": news}}
