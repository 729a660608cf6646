"""RQ as transport: which attempt of which job a worker takes next, and nothing else.

Every worker process listens to this one queue alone, so that RQ moves an entry with BLMOVE and never drops it between
queue and worker.
"""

from redis import Redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution
from rq.job import Job

from service.infrastructure.redis_keys import OPEN, job_key
from service.jobs.record import JobRecord
from service.jobs.rq_jobs import QUEUE, QUEUE_KEY, SERIALIZER, RqJob, rq_job_id
from service.jobs.tenant_slots import TenantSlots

UNLIMITED = 2**31
AT_ONCE = 1000  # of the silent jobs; Redis does nothing else meanwhile

# {how many silent jobs there were from `place` on, how many of them stay silent}. The queue is read once for all of
# them: a search of it for each would take Redis longer than everything else that it does for a long queue.
PUT_OFF = f"""
local open, check_after_ms, place, at_once = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local waits = {{}}
for _, entry in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do waits[entry] = true end
local clock = redis.call('TIME')
local now, stay = clock[1] * 1000 + math.floor(clock[2] / 1000), 0
local silent = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', place, at_once)
for _, member in ipairs(silent) do
  local tenant, id = string.match(member, '(.*)/(.*)')
  local known = redis.call('HMGET', string.format('{job_key("%s", "%s")}', tenant, id), 'status', 'attempt')
  local attempt = tonumber(known[2] or '')
  if known[1] == 'queued' and attempt and waits[id .. '-' .. (attempt + 1)] then
    redis.call('ZADD', open, now + check_after_ms, member)
  else
    stay = stay + 1
  end
end
return {{#silent, stay}}
"""


class JobQueue:
    """Needs a client that answers with bytes: `connect(url, decode=False)`."""

    def __init__(self, redis: Redis, *, max_running: int = UNLIMITED) -> None:
        self.redis = redis
        self._slots = TenantSlots(redis, max_running)
        self._put_off = redis.register_script(PUT_OFF)
        self._queue = Queue(QUEUE, connection=redis, job_class=RqJob, serializer=SERIALIZER)

    def enqueue(self, record: JobRecord) -> bool:
        """Puts the next attempt of a queued job in the queue, once: a second call is without effect.

        False where its tenant runs as many jobs as it may: the job waits outside the queue for `offer`. Also where the
        job is not queued any more: then it waits for nothing.
        """
        return self._slots.take(record)

    def enqueue_waiting(self, record: JobRecord) -> bool:
        """Whether a queued job has waited outside the queue; if so it is put there as soon as its tenant may."""
        if self._slots.has(record.tenant, record.id):
            return False
        self.enqueue(record)
        return True

    def contains(self, record: JobRecord) -> bool:
        """Whether the next attempt of a queued job waits in the queue, or a living worker is about to start it."""
        entry = rq_job_id(record.id, record.attempt + 1)
        return self._queue.get_job_position(entry) is not None or entry in self._starting()

    def defer_checks(self, check_after_ms: int) -> None:
        """Puts the reconciler's next look off, for so long, at each queued job whose next attempt waits in the queue:
        what `contains` and `JobStore.defer_overdue` do for one job, for all at a fraction of the cost."""
        place, seen = 0, AT_ONCE
        while seen == AT_ONCE:
            seen, stay = self._put_off(keys=[OPEN, QUEUE_KEY], args=[check_after_ms, place, AT_ONCE])
            place += stay

    def is_started(self, job_id: str) -> bool:
        """Whether a living worker has taken any attempt of the job."""
        return any(entry.rpartition("-")[0] == job_id for entry in self._starting())

    def remove(self, record: JobRecord) -> None:
        """Takes the next attempt out of the queue, whatever became of it."""
        entry = self._entry(record.id, record.attempt + 1)
        if entry is not None:
            self._queue.intermediate_queue.remove(entry.id)
            self._forget_expired_executions(entry)
            entry.delete()

    def kill(self, record: JobRecord) -> None:
        """Kills the process that runs the present attempt, if a worker has one: it no longer answers otherwise."""
        try:
            send_stop_job_command(self.redis, rq_job_id(record.id, record.attempt), serializer=SERIALIZER)
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
            return RqJob.fetch(rq_job_id(job_id, attempt), connection=self.redis, serializer=SERIALIZER)
        except NoSuchJobError:
            return None
