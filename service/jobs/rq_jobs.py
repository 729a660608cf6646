"""RQ's view of an attempt: an RQ job that names the job and the attempt. Everything else is in the job's record.

The function that an RQ job may run is fixed here. The JSON serializer alone would import and call any function whose
name is in Redis.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import DeferredJobRegistry
from rq.utils import import_attribute, now

from service.contract.request.job_request import Priority
from service.jobs.record import JobRecord

QUEUE = "slim"
QUEUE_KEY = Queue.redis_queue_namespace_prefix + QUEUE
RANKS = {Priority.high: 0, Priority.normal: 1, Priority.low: 2}  # lower ranks go first
RETRY_RANK_BONUS = 0.5  # a job that was started before goes before the new jobs of its priority
FUNCTION = "worker.tasks.run_job"
SERIALIZER = "json"
TIMEOUT_MARGIN_SECONDS = 120  # the worker ends a job at its deadline; RQ's time-out ends one that hangs
SHARD_RETRIES = 2  # of one shard whose process or worker has died, before the job fails
RESULT_SECONDS = 60
FAILURE_SECONDS = 86400


class RqJob(Job):
    """An RQ job that can run one function only. Callbacks and webhooks in its payload are ignored."""

    @property
    def func(self) -> Callable[..., Any]:
        if self.func_name != FUNCTION or self.instance is not None:
            raise PermissionError("the queue runs one function only")
        return import_attribute(FUNCTION)

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """Send nothing: `service.webhooks.delivery` sends the webhooks of jobs."""


@dataclass(frozen=True)
class RqJobHash:
    """An RQ job as the hash that RQ reads: id, rank in the queue, fields, and `data`, the serialized call.

    It depends on the RQ jobs `after`: RQ enqueues it, in front of all others, when these have finished.
    """

    id: str
    rank: float
    fields: Mapping[str, str | float]
    data: bytes
    after: tuple["RqJobHash", ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """What `enqueue_rq_job` of the scripts' preamble takes as JSON, beside `data`, which is not text."""
        return {
            "id": self.id,
            "rank": self.rank,
            "fields": self.fields,
            "prefix": Job.redis_job_namespace_prefix,
            "queue": QUEUE_KEY,
            "queues": Queue.redis_queues_keys,
            "after": [{**each.arguments, "data": zlib.decompress(each.data).decode()} for each in self.after],
            "deferred": DeferredJobRegistry.key_template.format(QUEUE),
        }


def rq_job_id(job_id: str, attempt: int, shard: int | None = None) -> str:
    """RQ's id of an attempt, or of one shard of it."""
    return f"{job_id}-{attempt}" if shard is None else f"{job_id}-{attempt}_{shard}"


def rq_job_ids(record: JobRecord, attempt: int) -> list[str]:
    """RQ's ids of all that an attempt consists of: its shards, and the job itself or the last one."""
    count = record.request.method.shards
    shards = [rq_job_id(record.id, attempt, number) for number in range(count)] if count > 1 else []
    return [*shards, rq_job_id(record.id, attempt)]


class RqJobFactory:
    """Makes the RQ jobs of attempts. It sends nothing to Redis: RQ's constructor wants a client."""

    def __init__(self, redis: Redis) -> None:
        # To construct an RQ job takes longer than to store it, so each attempt is a copy of one template.
        self._template = RqJob.create(
            FUNCTION,
            origin=QUEUE,
            status=JobStatus.QUEUED,
            result_ttl=RESULT_SECONDS,
            failure_ttl=FAILURE_SECONDS,
            serializer=SERIALIZER,
            connection=redis,
        )

    def next_attempt(self, record: JobRecord) -> RqJobHash:
        """The RQ job of the attempt that follows the present one, after those of the shards that are not done."""
        shards = [self._next(record, shard) for shard in record.open_shards]
        last = self._next(record)
        if not shards:
            return last
        names = [shard.id for shard in shards]
        waits: dict[str, str | float] = {
            "status": JobStatus.DEFERRED.value,
            "dependency_id": names[0],
            "dependency_ids": json.dumps(names),
            "enqueue_at_front": 1,
        }
        return replace(last, fields={**last.fields, **waits}, after=tuple(shards))

    def _next(self, record: JobRecord, shard: int | None = None) -> RqJobHash:
        attempt, rank = record.attempt + 1, RANKS[record.request.priority]
        rq_job = copy(self._template)
        rq_job.kwargs = {"tenant": record.tenant, "job_id": record.id, "attempt": attempt}
        if shard is not None:
            rq_job.kwargs = {**rq_job.kwargs, "shard": shard}
            rq_job.retries_left, rq_job.enqueue_at_front_on_retry = SHARD_RETRIES, True
        rq_job.description = rq_job_id(record.id, attempt, shard)
        rq_job.timeout = record.request.deadline_seconds + TIMEOUT_MARGIN_SECONDS
        rq_job.created_at = rq_job.enqueued_at = now()
        fields = rq_job.to_dict()
        data = fields.pop("data")
        is_retry = record.attempt > 0 or record.lost > 0
        return RqJobHash(rq_job.description, rank - RETRY_RANK_BONUS if is_retry else rank, fields, data)
