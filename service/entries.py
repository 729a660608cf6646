"""An attempt as it lies in RQ's queue: what RQ wants to know of it, and the part of the scripts that puts it there.

An entry names the job and the attempt; all the rest stands in the record. What an entry may run is fixed here: the JSON
serializer alone would still import and call any function whose name stands in Redis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import import_attribute, now

from service.job_record import JobRecord
from service.schemas import Priority

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
# `first` is where the fields of the entry begin in ARGV.
PUT_ENTRY = f"""
local jobs, queue = '{Job.redis_job_namespace_prefix}', '{QUEUE_KEY}'
local function put_entry(entry, place, first)
  if redis.call('EXISTS', jobs .. entry) == 1 then return end
  redis.call('HSET', jobs .. entry, 'slim_rank', place, unpack(ARGV, first))
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


class SlimJob(Job):
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
        """Ours are sent by `service.webhooks`."""


@dataclass(frozen=True)
class Entry:
    """An attempt on its way to the queue: its id, its place among the others, RQ's fields as names and values."""

    id: str
    place: float
    fields: tuple[str | bytes | int | float, ...]


def entry_id(job_id: str, attempt: int) -> str:
    """RQ's id of an attempt."""
    return f"{job_id}-{attempt}"


def next_entry(record: JobRecord, redis: Redis) -> Entry:
    """The entry of the attempt that follows. Nothing is asked of Redis: an RQ job wants a client to be made at all."""
    entry, rank = entry_id(record.id, record.attempt + 1), RANKS[record.request.priority]
    job = SlimJob.create(
        FUNCTION,
        kwargs={"tenant": record.tenant, "job_id": record.id, "attempt": record.attempt + 1},
        id=entry,
        description=entry,
        origin=QUEUE,
        status=JobStatus.QUEUED,
        timeout=record.request.deadline_seconds + TIMEOUT_MARGIN_SECONDS,
        result_ttl=RESULT_SECONDS,
        failure_ttl=FAILURE_SECONDS,
        serializer=JSONSerializer,
        connection=redis,
    )
    job.enqueued_at = now()
    fields = [part for field in job.to_dict().items() if field[1] is not None for part in field]
    return Entry(entry, rank - AHEAD if record.attempt or record.lost else rank, tuple(fields))
