"""The state machine of a job: which operation leads from which status to which, and the scripts that carry it out.

    status       operation -> next status
    -----------  ------------------------------------------------------------------------------------------------
    queued       LEASE -> running, CANCEL -> cancelled, DEFER -> queued, REQUEUE -> queued, GIVE_UP -> failed
    running      RENEW -> running, SUCCEED -> succeeded, FAIL -> failed, CANCEL -> cancelling,
                 HAND_BACK -> queued, REQUEUE -> queued, GIVE_UP -> failed
    cancelling   RENEW -> cancelling; CONFIRM_CANCELLED, SUCCEED, FAIL, HAND_BACK, REQUEUE, GIVE_UP -> cancelled
    succeeded, failed, cancelled: final

Clients cancel. The worker that holds the lease renews it, succeeds, fails, hands back and confirms that it has stopped.
The reconciler defers, requeues and gives up jobs whose lease has run out.

An operation that the table does not have for a status is refused. A script in Redis (`scripts/change_job.lua`) tests
the status, changes it, and updates the indexes, the counters, the slots and the history in one step, so no order of
calls leaves an illegal state. A call whose reply was lost may be repeated: it changes nothing more, except that RENEW
renews the lease again and adds its event a second time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis

from service.contract.answers.job import JobStatus
from service.infrastructure.redis_keys import (
    EXPIRIES,
    OPEN,
    WEBHOOKS,
    events_key,
    index_key,
    job_key,
    open_member,
    slots_key,
    waiting_key,
)
from service.infrastructure.redis_scripts import load_script
from service.jobs.rq_jobs import RqJobHash

Operation = Mapping[str, str]  # status before -> status after

LEASE: Operation = {"queued": "running"}
RENEW: Operation = {"running": "running", "cancelling": "cancelling"}
DEFER: Operation = {"queued": "queued"}
SUCCEED: Operation = {"running": "succeeded", "cancelling": "cancelled"}
FAIL: Operation = {"running": "failed", "cancelling": "cancelled"}
HAND_BACK: Operation = {"running": "queued", "cancelling": "cancelled"}
CONFIRM_CANCELLED: Operation = {"cancelling": "cancelled"}
CANCEL: Operation = {"queued": "cancelled", "running": "cancelling"}
REQUEUE: Operation = {"queued": "queued", "running": "queued", "cancelling": "cancelled"}
GIVE_UP: Operation = {"queued": "failed", "running": "failed", "cancelling": "cancelled"}

PACKAGE = "service.jobs"  # its folder `scripts` has the Lua files
MAX_EVENTS = 2000  # of one job; the oldest are dropped first
NOT_CREATED: dict[int, Literal["exists", "full"]] = {0: "exists", -1: "full"}
Verdict = Literal["done", "missing", "stale", "refused", "early"]


@dataclass(frozen=True)
class SlotRequest:
    """A request for one of a tenant's `limit` slots, and for a place in RQ's queue with it.

    Where no slot is free, the job waits behind those of lower `rank` and earlier ones, and the reconciler checks it
    only after `check_after_ms`. `rq_job` is the attempt that follows `previous_attempt`.
    """

    limit: int
    rank: int
    check_after_ms: int
    previous_attempt: int
    rq_job: RqJobHash

    @property
    def arguments(self) -> dict[str, Any]:
        """What the scripts take as JSON: everything but the payload of the RQ job, which is not text."""
        return {
            "limit": self.limit,
            "rank": self.rank,
            "check_after_ms": self.check_after_ms,
            "previous_attempt": self.previous_attempt,
            "rq_job": self.rq_job.arguments,
        }


@dataclass(frozen=True)
class Outcome:
    """Whether an operation was carried out, and the status that the job has now (None: there is no such job)."""

    verdict: Verdict
    status: JobStatus | None


class StateMachine:
    """Carries out operations on the jobs in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._create = load_script(redis, PACKAGE, "create_job")
        self._change = load_script(redis, PACKAGE, "change_job")
        self._delete = load_script(redis, PACKAGE, "delete_job")

    def create(
        self,
        tenant: str,
        fields: Mapping[str, Any],
        *,
        check_after_ms: int,
        max_queued: int | None,
        slot_request: SlotRequest | None,
    ) -> int | Literal["exists", "full"]:
        """Create a queued job of these `fields`, which include `id` and `request`.

        Returns the time of creation by Redis' clock in milliseconds; `exists` where there is a job with this id, `full`
        where the tenant has `max_queued` queued jobs.
        """
        rest = dict(fields)
        job_id, request = rest.pop("id"), rest.pop("request")
        options: dict[str, Any] = {
            "tenant": tenant,
            "member": open_member(tenant, job_id),
            "fields": rest,
            "check_after_ms": check_after_ms,
        }
        if max_queued is not None:
            options["max_queued"] = max_queued
        if slot_request is not None:
            options["slot_request"] = slot_request.arguments
        payload = slot_request.rq_job.data if slot_request else b""
        created = int(self._create(keys=keys_of(tenant, job_id), args=[json.dumps(options), job_id, request, payload]))
        return NOT_CREATED.get(created, created)

    def apply(self, tenant: str, job_id: str, operation: Operation, **options: Any) -> Outcome:
        """Carry out an operation; `scripts/change_job.lua` describes the options."""
        options |= {
            "tenant": tenant,
            "member": open_member(tenant, job_id),
            "transitions": dict(operation),
            "max_events": MAX_EVENTS,
        }
        verdict, status = self._change(keys=keys_of(tenant, job_id), args=[json.dumps(options)])
        return Outcome(verdict, JobStatus(status) if status else None)

    def delete(self, tenant: str, job_id: str) -> None:
        """Remove a job and its history."""
        self._delete(keys=keys_of(tenant, job_id), args=[tenant, job_id, *JobStatus])


def keys_of(tenant: str, job_id: str) -> list[str]:
    """The keys that the scripts take, in the order that `job_keys` of the preamble expects."""
    own = [job_key(tenant, job_id), events_key(tenant, job_id), index_key(tenant)]
    return [*own, OPEN, WEBHOOKS, EXPIRIES, slots_key(tenant), waiting_key(tenant)]
