"""An attempt as it lies in RQ's queue: what RQ wants to know of it, and the part of the scripts that puts it there.

An entry names the job and the attempt; all the rest stands in the record. What an entry may run is fixed here: the JSON
serializer alone would still import and call any function whose name stands in Redis.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.utils import import_attribute, now

from service.contract.request import Priority
from service.jobs.record import JobRecord

QUEUE = "slim"
QUEUE_KEY = Queue.redis_queue_namespace_prefix + QUEUE
RANKS = {Priority.high: 0, Priority.normal: 1, Priority.low: 2}
AHEAD = 0.5  # of the jobs of its rank is one that had its turn and lost its worker
FUNCTION = "worker.tasks.run_job"
SERIALIZER = "json"
TIMEOUT_MARGIN_SECONDS = 120  # the worker ends a job at its deadline; RQ's time-out is for one that is stuck
RESULT_SECONDS = 60
FAILURE_SECONDS = 86400

# What RQ's own unique enqueueing does, and one thing more: RQ knows priorities as several queues, which a worker takes
# from without the safety of BLMOVE. Here they are places in the one queue: an entry goes before those of higher rank.
PUT_ENTRY = f"""
local function write(key, fields)
  local flat = {{}}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end

local jobs, queue = '{Job.redis_job_namespace_prefix}', '{QUEUE_KEY}'
local function put_entry(entry, place, fields, data)
  if redis.call('EXISTS', jobs .. entry) == 1 then return end
  write(jobs .. entry, fields)
  redis.call('HSET', jobs .. entry, 'data', data, 'slim_rank', place)
  redis.call('SADD', '{Queue.redis_queues_keys}', queue)
  local at, ahead = -1, redis.call('LINDEX', queue, -1)
  while ahead and tonumber(redis.call('HGET', jobs .. ahead, 'slim_rank') or '1') > place do
    at = at - 1
    ahead = redis.call('LINDEX', queue, at)
  end
  if at == -1 then redis.call('RPUSH', queue, entry)
  elseif ahead then redis.call('LINSERT', queue, 'AFTER', ahead, entry)
  else redis.call('LPUSH', queue, entry) end
end
"""


class RqJob(Job):
    """An RQ job that can run one function only. Callbacks and webhooks in its payload are dead letters."""

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
        """Ours are sent by `service.webhooks.delivery`."""


@dataclass(frozen=True)
class Entry:
    """An attempt on its way to the queue: its id, its place among the others, and what RQ wants to know of it, of which
    `data`, the call, is not text."""

    id: str
    place: float
    fields: Mapping[str, str | float]
    data: bytes


def rq_job_id(job_id: str, attempt: int) -> str:
    """RQ's id of an attempt."""
    return f"{job_id}-{attempt}"


class Entries:
    """Makes entries. Nothing is asked of Redis: an RQ job wants a client to be made at all."""

    def __init__(self, redis: Redis) -> None:
        self._blank = RqJob.create(  # RQ takes longer to make a job than to write it down, so it makes one
            FUNCTION,
            origin=QUEUE,
            status=JobStatus.QUEUED,
            result_ttl=RESULT_SECONDS,
            failure_ttl=FAILURE_SECONDS,
            serializer=SERIALIZER,
            connection=redis,
        )

    def next(self, record: JobRecord) -> Entry:
        """The entry of the attempt that follows."""
        attempt, rank = record.attempt + 1, RANKS[record.request.priority]
        job = copy(self._blank)
        job.kwargs = {"tenant": record.tenant, "job_id": record.id, "attempt": attempt}
        job.description = rq_job_id(record.id, attempt)
        job.timeout = record.request.deadline_seconds + TIMEOUT_MARGIN_SECONDS
        job.created_at = job.enqueued_at = now()
        fields = job.to_dict()
        data = fields.pop("data")
        return Entry(job.description, rank - AHEAD if record.attempt or record.lost else rank, fields, data)
