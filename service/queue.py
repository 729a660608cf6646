"""RQ as transport: which attempt of which job a worker takes next, and nothing else.

Every worker process listens to this one queue alone, so that RQ moves an entry with BLMOVE and never drops it between
queue and worker. An entry names the job and the attempt; all the rest stands in the record. What an entry may run is
fixed here: the JSON serializer alone would still import and call any function whose name stands in Redis.
"""

from collections.abc import Callable
from typing import Any

from redis import Redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.utils import import_attribute

from service.job_record import JobRecord
from service.slots import RANKS, Slots

QUEUE = "slim"
UNLIMITED = 2**31
AHEAD = 0.5  # of the jobs of its rank is one that had its turn and lost its worker
FUNCTION = "worker.tasks.run_job"
SERIALIZER = "json"
TIMEOUT_MARGIN_SECONDS = 120  # the worker ends a job at its deadline; RQ's time-out is for one that is stuck
RESULT_SECONDS = 60
FAILURE_SECONDS = 86400

# RQ knows priorities as several queues, which a worker takes from without the safety of BLMOVE. Here they are places in
# the one queue: an entry moves up from the end, past those of higher rank. One that a worker took already stays taken.
PLACE = """
local queue, jobs, entry, rank = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('LREM', queue, -1, entry) == 0 then return end
redis.call('HSET', jobs .. entry, 'slim_rank', rank)
local place, ahead = -1, redis.call('LINDEX', queue, -1)
while ahead and tonumber(redis.call('HGET', jobs .. ahead, 'slim_rank') or '1') > rank do
  place = place - 1
  ahead = redis.call('LINDEX', queue, place)
end
if ahead then redis.call('LINSERT', queue, 'AFTER', ahead, entry) else redis.call('LPUSH', queue, entry) end
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


class JobQueue:
    """Needs a client that answers with bytes: `connect(url, decode=False)`."""

    def __init__(self, redis: Redis, *, max_running: int = UNLIMITED) -> None:
        self.redis = redis
        self._slots = Slots(redis, max_running)
        self._place = redis.register_script(PLACE)
        self._queue = Queue(QUEUE, connection=redis, job_class=SlimJob, serializer=SERIALIZER)

    def enqueue(self, record: JobRecord) -> bool:
        """Puts the next attempt of a queued job in the queue, once: a second call is without effect.

        False where its tenant runs as many jobs as it may: the job waits outside the queue for `offer`. Also where the
        job is not queued any more: then it waits for nothing.
        """
        if not self._slots.take(record.tenant, record.id, record.request.priority):
            return False
        self.put(record)
        return True

    def put(self, record: JobRecord) -> None:
        """`enqueue` for a job that has its slot."""
        attempt = record.attempt + 1
        try:
            self._queue.enqueue_call(
                FUNCTION,
                kwargs={"tenant": record.tenant, "job_id": record.id, "attempt": attempt},
                job_id=entry_id(record.id, attempt),
                unique=True,
                timeout=record.request.deadline_seconds + TIMEOUT_MARGIN_SECONDS,
                result_ttl=RESULT_SECONDS,
                failure_ttl=FAILURE_SECONDS,
                description=entry_id(record.id, attempt),
            )
        except DuplicateJobError:
            return
        rank = RANKS[record.request.priority]
        place = rank - AHEAD if record.attempt or record.lost else rank
        self._place(keys=[self._queue.key], args=[Job.redis_job_namespace_prefix, entry_id(record.id, attempt), place])

    def offer(self, record: JobRecord) -> bool:
        """Whether a queued job has waited outside the queue; if so it is put there as soon as its tenant may."""
        if self._slots.has(record.tenant, record.id):
            return False
        self.enqueue(record)
        return True

    def holds(self, record: JobRecord) -> bool:
        """Whether the next attempt of a queued job waits in the queue, or a living worker is about to start it."""
        entry = entry_id(record.id, record.attempt + 1)
        return self._queue.get_job_position(entry) is not None or entry in self._starting()

    def runs(self, job_id: str) -> bool:
        """Whether a living worker has taken any attempt of the job."""
        return any(entry.rpartition("-")[0] == job_id for entry in self._starting())

    def withdraw(self, record: JobRecord) -> None:
        """Takes the next attempt out of the queue, whatever became of it."""
        entry = self._entry(record.id, record.attempt + 1)
        if entry is not None:
            self._queue.intermediate_queue.remove(entry.id)
            self._forget_expired_executions(entry)
            entry.delete()

    def stop(self, record: JobRecord) -> None:
        """Kills the process that runs the present attempt, if a worker has one: it no longer answers otherwise."""
        try:
            send_stop_job_command(self.redis, entry_id(record.id, record.attempt), serializer=SERIALIZER)
        except (NoSuchJobError, InvalidJobOperation):
            return

    def depth(self) -> int:
        """Entries that wait."""
        return self._queue.count

    def _starting(self) -> list[str]:
        """Entries that a worker has taken, as long as it keeps saying so."""
        running: list[str] = self._queue.started_job_registry.get_job_ids(cleanup=True)
        return running

    def _forget_expired_executions(self, entry: Job) -> None:
        """A worker that died leaves an execution that expires before the list of executions does; RQ, when it deletes
        the entry, takes that for an error."""
        for execution_id in entry.execution_registry.get_execution_ids():
            try:
                Execution.fetch(execution_id, entry.id, connection=self.redis)
            except ValueError:
                self.redis.zrem(entry.execution_registry.key, execution_id)

    def _entry(self, job_id: str, attempt: int) -> Job | None:
        try:
            return SlimJob.fetch(entry_id(job_id, attempt), connection=self.redis, serializer=SERIALIZER)
        except NoSuchJobError:
            return None


def entry_id(job_id: str, attempt: int) -> str:
    """RQ's id of an attempt."""
    return f"{job_id}-{attempt}"
