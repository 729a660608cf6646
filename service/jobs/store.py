"""The job's record in Redis: what a client sees of it, and the lease of the attempt that runs it.

RQ is transport only; `service.jobs.state_machine` draws the states and makes every change atomic. The attempt's number
is its fencing token: it only grows, each number is leased once, and a write by any other than the present attempt
raises `LeaseLost`. Redis' clock is the only one. Redis' own errors (`redis.RedisError`) pass through.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from redis import Redis

from service.contract.errors import Conflict, LimitExceeded, NotFound, UnreadableRecord
from service.contract.ids import check_job_id, first_id_at
from service.contract.job import Event, JobError, JobStatus, Progress, Stage
from service.contract.result import Result
from service.infrastructure.redis_client import now_ms
from service.infrastructure.redis_keys import OPEN, events_key, index_key, job_key
from service.jobs.events import check_id, parse
from service.jobs.record import EPOCH, JobRecord, decode, encode
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

log = structlog.get_logger()


class LeaseLost(Exception):
    """Another attempt runs the job, or none: whoever meets this stops at once and writes nothing more."""


@dataclass(frozen=True)
class Lease:
    """The right to run one attempt; `job` is the record as it was when the lease was taken."""

    job: JobRecord
    attempt: int
    spent_seconds: float  # of the job's deadline, by attempts before this one

    @property
    def token(self) -> int:
        return self.attempt


@dataclass(frozen=True)
class Page:
    """Newest first; `next_cursor` is null on the last page."""

    records: list[JobRecord]
    next_cursor: str | None


class JobStore:
    """Reads and changes records. Needs a client that decodes responses
    (`service.infrastructure.redis_client.connect`)."""

    def __init__(self, redis: Redis, *, lease_seconds: float = 20) -> None:
        self.redis = redis
        self.check_after_ms = int(lease_seconds * 1000)
        self._state_machine = StateMachine(redis)
        self._rq_jobs = RqJobFactory(redis)

    # --- the client's side

    def accept(self, record: JobRecord, *, max_queued: int | None = None, max_running: int | None = None) -> JobRecord:
        """Writes a new record and its first event, at Redis' time. In the same step the job goes to the queue of the
        workers, or waits until less than `max_running` jobs of its tenant are with them; without that, enqueueing it is
        the caller's.

        Where a record with this id exists (a request that was sent again), it stays as it is and is returned.
        Raises LimitExceeded where the tenant has `max_queued` queued jobs.
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
            raise LimitExceeded(f"{max_queued} jobs are queued, as many as may be; wait for some to start")
        if created == "exists":
            return self.get(record.tenant, record.id)
        return record.model_copy(update={"created_at": EPOCH + timedelta(milliseconds=created)})

    def get(self, tenant: str, job_id: str) -> JobRecord:
        """The record; `NotFound` for another tenant's job too."""
        return decode(self.get_fields(tenant, job_id))

    def exists(self, tenant: str, job_id: str) -> bool:
        """Whether there is a record, readable or not."""
        return bool(self.redis.exists(job_key(tenant, job_id)))

    def get_fields(self, tenant: str, job_id: str) -> Mapping[str, str]:
        """The record as it lies in Redis; `NotFound` for another tenant's job too."""
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
        """At most `limit` records older than `cursor`, newest first; where asked, of one status, with one tag, made
        at `since` or later, made before `before`. One that cannot be read is logged and left out."""
        found: list[JobRecord] = []
        ends = ([check_job_id(cursor)] if cursor else []) + ([first_id_at(before)] if before else [])
        newest, oldest = min(ends, default=None), first_id_at(since) if since else None
        while len(found) <= limit:
            records, newest = self._older(index_key(tenant, status), tenant, (newest, oldest), limit + 1)
            found += [record for record in records if tag is None or record.tags.get(tag[0]) == tag[1]]
            if newest is None:
                break
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    def counts(self, tenant: str) -> dict[JobStatus, int]:
        """How many jobs have each status."""
        return {status: self.redis.zcard(index_key(tenant, status)) for status in JobStatus}

    def cancel(self, tenant: str, job_id: str) -> JobRecord:
        """Asks for the end of a job: a queued one is cancelled at once, a running one becomes `cancelling`.

        One that is cancelling or finished stays as it is. Its entry in the queue is the caller's (`Queue.withdraw`).
        """
        self._state_machine.apply(tenant, job_id, CANCEL)
        return self.get(tenant, job_id)

    def delete(self, tenant: str, job_id: str) -> None:
        """Forgets a finished job; `Conflict` while it is not. Its artifacts are the caller's."""
        check_finished(self.get(tenant, job_id))
        self.remove(tenant, job_id)

    def remove(self, tenant: str, job_id: str) -> None:
        """Forgets a job whatever its record says; a worker that is at it loses its lease."""
        self._state_machine.delete(tenant, job_id)

    def events(self, tenant: str, job_id: str, *, after: str | None = None, limit: int = 100) -> list[Event]:
        """At most `limit` events that follow the event `after`, oldest first; `service.jobs.events.follow` waits for
        more.

        Raises `NotFound`, and `InvalidRequest` for an `after` that is no event's id.
        """
        self.get(tenant, job_id)
        start = f"({check_id(after)}" if after else "-"
        return parse(cast(Any, self.redis.xrange(events_key(tenant, job_id), min=start, count=limit)))

    # --- the worker's side: every method but `lease` raises LeaseLost once the attempt is not the present one

    def lease(self, tenant: str, job_id: str, attempt: int, worker: str) -> Lease:
        """Starts `attempt` of a queued job for `worker`, a name that no other process has.

        `LeaseLost` where the attempt was started before, or the job is finished, cancelled or gone.
        """
        blank = {"progress": Progress(fraction=0).model_dump_json(), "stage": ""}
        options = {"worker": worker, "fields": {"running": blank}, "check_after_ms": self.check_after_ms}
        outcome = self._state_machine.apply(tenant, job_id, LEASE, attempt=attempt - 1, **options)
        if outcome.verdict != "done":
            raise LeaseLost(f"attempt {attempt} of job {job_id} cannot start: {outcome.verdict}, {outcome.status}")
        record = self.get(tenant, job_id)
        return Lease(record, attempt, spent_seconds=self.seconds_since_start(record))

    def heartbeat(self, lease: Lease) -> JobStatus:
        """Says that the worker lives. Answers `running`, or `cancelling` when the attempt is to end."""
        return self._write(lease, RENEW, check_after_ms=self.check_after_ms)

    def set_stage(self, lease: Lease, stage: Stage, progress: Progress) -> JobStatus:
        """Enters a stage; answers as `heartbeat` does."""
        fields = {"stage": stage.value, "progress": progress.model_dump_json()}
        event = {"type": "stage", "data": json.dumps({"stage": stage.value, "fraction": progress.fraction})}
        return self._write(lease, RENEW, fields=dict.fromkeys(RENEW, fields), event=event)

    def progress(self, lease: Lease, progress: Progress) -> JobStatus:
        """Records how far the stage is; answers as `heartbeat` does. Thinning calls out is the caller's."""
        fields = {"progress": progress.model_dump_json()}
        event = {"type": "progress", "data": progress.model_dump_json()}
        return self._write(lease, RENEW, fields=dict.fromkeys(RENEW, fields), event=event)

    def log(self, lease: Lease, message: str) -> JobStatus:
        """Adds a line for the user to the events; answers as `heartbeat` does."""
        event = {"type": "log", "data": json.dumps({"message": message[:MAX_LOG_LENGTH]})}
        return self._write(lease, RENEW, event=event)

    def succeed(self, lease: Lease, result: Result) -> JobStatus:
        """Ends the job as `succeeded`; as `cancelled`, without result, when that was asked for in time."""
        full = Progress(fraction=1, eta_seconds=0).model_dump_json()
        return self._write(lease, SUCCEED, fields={"succeeded": {"result": result.model_dump_json(), "progress": full}})

    def fail(self, lease: Lease, error: JobError) -> JobStatus:
        """Ends the job as `failed`; as `cancelled`, without error, when that was asked for in time."""
        return self._write(lease, FAIL, **_failure(error))

    def confirm_cancelled(self, lease: Lease) -> JobStatus:
        """Ends a job that is cancelling as `cancelled`."""
        return self._write(lease, CONFIRM_CANCELLED)

    def hand_back(self, lease: Lease) -> JobStatus:
        """Puts the job back in the queue, not counted as lost; enqueueing the next attempt is the caller's."""
        return self._write(lease, HAND_BACK, check_after_ms=self.check_after_ms)

    def seconds_since_start(self, record: JobRecord) -> float:
        """How long ago the job's first attempt began; 0 before that."""
        started = record.started_at
        return now_ms(self.redis) / 1000 - started.timestamp() if started else 0.0

    # --- the reconciler's side

    def overdue(self, limit: int = 1000) -> list[JobRecord]:
        """Unfinished jobs that nobody was heard of for a lease's time: leases that ran out, and queued jobs."""
        members = cast(list[str], self.redis.zrangebyscore(OPEN, 0, now_ms(self.redis), start=0, num=limit))
        with self.redis.pipeline(transaction=False) as pipe:
            for member in members:
                pipe.hgetall(job_key(*member.split("/")))
            found = [self._overdue(member, fields) for member, fields in zip(members, pipe.execute(), strict=True)]
        return [record for record in found if record is not None]

    def expire_lease(self, tenant: str, job_id: str, attempt: int) -> None:
        """Makes the lease of `attempt` end now: its worker saw its process die."""
        self._state_machine.apply(tenant, job_id, RENEW, attempt=attempt, check_after_ms=0)

    def defer_overdue(self, record: JobRecord) -> bool:
        """Puts off the next look at a queued job whose entry is in the queue. False: it has moved on meanwhile."""
        return self._if_overdue(record, DEFER, check_after_ms=self.check_after_ms)

    def requeue_overdue(self, record: JobRecord) -> bool:
        """Puts an overdue job back in the queue and counts the attempt as lost; a cancelling one is cancelled."""
        return self._if_overdue(record, REQUEUE, count_lost=True, check_after_ms=self.check_after_ms)

    def fail_overdue(self, record: JobRecord, error: JobError) -> bool:
        """Fails an overdue job; a cancelling one is cancelled."""
        return self._if_overdue(record, GIVE_UP, **_failure(error))

    def succeed_overdue(self, record: JobRecord, result: Result) -> bool:
        """Ends an overdue job as `succeeded`: its manifest was written, its worker died before it could say so."""
        return self._if_overdue(record, SUCCEED, fields={"succeeded": {"result": result.model_dump_json()}})

    # --- how

    def _overdue(self, member: str, fields: dict[str, str]) -> JobRecord | None:
        """The record of an open job. One that cannot be read is put off, so that those behind it have their turn."""
        try:
            return decode(fields) if fields else None
        except UnreadableRecord:
            log.exception("record unreadable", job=member)
            self.redis.zadd(OPEN, {member: now_ms(self.redis) + self.check_after_ms}, xx=True)
            return None

    def _write(self, lease: Lease, operation: Operation, **options: Any) -> JobStatus:
        outcome = self._state_machine.apply(lease.job.tenant, lease.job.id, operation, attempt=lease.token, **options)
        if outcome.verdict != "done" or outcome.status is None:
            raise LeaseLost(f"attempt {lease.attempt} of job {lease.job.id}: {outcome.verdict}, {outcome.status}")
        return outcome.status

    def _if_overdue(self, record: JobRecord, operation: Operation, **options: Any) -> bool:
        options |= {"attempt": record.attempt, "overdue": True}
        return self._state_machine.apply(record.tenant, record.id, operation, **options).verdict == "done"

    def _older(
        self, index: str, tenant: str, span: tuple[str | None, str | None], limit: int
    ) -> tuple[list[JobRecord], str | None]:
        """The newest `limit` records of an index in a span of ids, whose end at the new side is left out, and the
        cursor behind them, None at its end."""
        newest, oldest = f"({span[0]}" if span[0] else "+", f"[{span[1]}" if span[1] else "-"
        ids = cast(list[str], self.redis.zrevrangebylex(index, newest, oldest, start=0, num=limit))
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(job_key(tenant, job_id))
            found = [_readable(tenant, job_id, fields) for job_id, fields in zip(ids, pipe.execute(), strict=True)]
        return [record for record in found if record is not None], ids[-1] if len(ids) == limit else None


def _readable(tenant: str, job_id: str, fields: dict[str, str]) -> JobRecord | None:
    """The record; None where there is none, or one that cannot be read, which is logged."""
    try:
        return decode(fields) if fields else None
    except UnreadableRecord:
        log.exception("record unreadable", job_id=job_id, tenant=tenant)
        return None


def check_finished(record: JobRecord) -> None:
    """`Conflict` for a job that is not finished."""
    if not record.status.is_terminal:
        raise Conflict(f"the job is {record.status}; cancel it first")


def _failure(error: JobError) -> dict[str, Any]:
    """The fields and the event of a job that fails."""
    text = error.model_dump_json()
    news = json.dumps({"status": JobStatus.failed, "error": error.model_dump()})
    return {"fields": {"failed": {"error": text}}, "status_events": {"failed": news}}
