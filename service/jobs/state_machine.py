"""The state machine of a job, and the Redis script that moves a record along it.

    queued ──LEASE──▶ running ──SUCCEED──▶ succeeded
      ▲ │              │ │ └─────FAIL────▶ failed
      │ └──CANCEL──▶ cancelled ◀─(any)── cancelling ◀─CANCEL── running
      └─HAND_BACK, REQUEUE── running

Each operation is a table: the status that it needs -> the status that it leaves. What is not in the table is refused,
and the test, the change of status, the lists and the event are one run of `CHANGE`, so no order of calls leaves an
illegal state. A call that Redis has carried out but whose answer was lost can be repeated without harm.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redis import Redis

from service.contract.job import JobStatus
from service.infrastructure.counters import LUA
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
from service.jobs.rq_jobs import PUT_ENTRY, Entry

Moves = Mapping[str, str]

LEASE: Moves = {"queued": "running"}
KEEP: Moves = {"running": "running", "cancelling": "cancelling"}
WAIT: Moves = {"queued": "queued"}
SUCCEED: Moves = {"running": "succeeded", "cancelling": "cancelled"}
FAIL: Moves = {"running": "failed", "cancelling": "cancelled"}
HAND_BACK: Moves = {"running": "queued", "cancelling": "cancelled"}
ACKNOWLEDGE: Moves = {"cancelling": "cancelled"}
CANCEL: Moves = {"queued": "cancelled", "running": "cancelling"}
REQUEUE: Moves = {"queued": "queued", "running": "queued", "cancelling": "cancelled"}
GIVE_UP: Moves = {"queued": "failed", "running": "failed", "cancelling": "cancelled"}

MAX_EVENTS = 2000  # of one job; the oldest go first

# 1: the job may go to the workers (`service.jobs.tenant_slots`). A job that is cancelled or gone by now gets no slot
# and no place in the line: nothing would ever take it out again.
TAKE_SLOT = """
local function take_slot(job, slots, waiting, open, tenant, id, wish)
  if redis.call('HGET', job, 'status') ~= 'queued' then return 0 end
  if redis.call('SISMEMBER', slots, id) == 1 then return 1 end
  redis.call('ZADD', waiting, wish.rank, id)
  if redis.call('SCARD', slots) >= wish.limit or redis.call('ZRANGE', waiting, 0, 0)[1] ~= id then
    redis.call('ZADD', open, 'XX', (redis.call('TIME')[1] + wish.put_off_seconds) * 1000, tenant .. '/' .. id)
    return 0
  end
  redis.call('SADD', slots, id)
  redis.call('ZREM', waiting, id)
  local following = redis.call('ZRANGE', waiting, 0, 0)[1]
  if following and redis.call('SCARD', slots) < wish.limit then
    redis.call('ZADD', open, 'XX', 0, tenant .. '/' .. following)
  end
  return 1
end
"""

# With the slot goes the entry in the queue: none is without the other. An entry that was made for an older attempt than
# the job has come to by now is left out.
HAND_OVER = (
    PUT_ENTRY
    + TAKE_SLOT
    + """
local function hand_over(job, slots, waiting, open, tenant, id, wish, data)
  if take_slot(job, slots, waiting, open, tenant, id, wish) == 0 then return 0 end
  if tonumber(redis.call('HGET', job, 'attempt')) == wish.follows then
    put_entry(wish.entry, wish.place, wish.fields, data)
  end
  return 1
end
"""
)

# When the job was made. 0 in place of the time: a record with the id exists and is left as it is, because the same
# request came twice. -1: the tenant's queue is full. Inline rows were stored before, with an expiry that holds as long
# as there is no record (`service.storage.inline_rows`). A job whose tenant has a slot for it goes to the workers in the
# same step.
CREATE = (
    LUA
    + HAND_OVER
    + """
local job, events, index, open, expiries = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]
local ask, id = cjson.decode(ARGV[1]), ARGV[2]
local exists = redis.call('EXISTS', job) == 1
if not exists and ask.max_queued and redis.call('ZCARD', index .. ':queued') >= ask.max_queued then return -1 end
redis.call('ZREM', expiries, 'rows/' .. ask.member)
local now = 0
if not exists then
  local clock = redis.call('TIME')
  now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  redis.call('HSET', job, 'id', id, 'status', 'queued', 'created_at', now, 'request', ARGV[3])
  write(job, ask.fields)
  redis.call('ZADD', index, 0, id)
  redis.call('ZADD', index .. ':queued', 0, id)
  redis.call('ZADD', open, now + ask.check_after_ms, ask.member)
  redis.call('XADD', events, '*', 'type', 'status', 'attempt', 0, 'data', '{"status":"queued"}')
  count(1, 'slim_jobs', 'queued')
  local request = cjson.decode(ARGV[3])
  count(1, 'slim_jobs_submitted', task_of(request), request.method.criterion)
end
if ask.wish then hand_over(job, KEYS[7], KEYS[8], open, ask.tenant, id, ask.wish, ARGV[4]) end
return now
"""
)

# The tenant may run one job more: let the reconciler look at the one that has waited for that.
HAND_ON = """
local function release_slot(slots, waiting, open, tenant, id)
  redis.call('SREM', slots, id)
  redis.call('ZREM', waiting, id)
  local following = redis.call('ZRANGE', waiting, 0, 0)[1]
  if following then redis.call('ZADD', open, 'XX', 0, tenant .. '/' .. following) end
end
"""

# `ask` is the second half of the contract:
#   moves     as above                          attempt   the present attempt that the caller believes in (fencing)
#   take      worker that starts an attempt     overdue   only if nobody was heard of for a lease's time
#   lost      count the attempt as lost         check_after_ms  how long nobody need be heard of from now on
#   set       status -> fields to write when that is where the job comes to be
#   event     type and data of an event; a change of status makes its own, with `news` (status -> data) instead
CHANGE = (
    LUA
    + HAND_ON
    + """
local job, events, index, open, webhooks = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local expiries, slots, waiting = KEYS[6], KEYS[7], KEYS[8]
local ask = cjson.decode(ARGV[1])
local record = redis.call('HMGET', job, 'status', 'attempt', 'id', 'worker')
local from, attempt, id, worker = record[1], tonumber(record[2]), record[3], record[4]
if not from then return {'missing', ''} end
if ask.take and attempt == ask.attempt + 1 and worker == ask.take and from == 'running' then return {'done', from} end
if ask.attempt and ask.attempt ~= attempt then return {'stale', from} end
local to = ask.moves[from]
if not to then
  for _, target in pairs(ask.moves) do if target == from and not ask.take then return {'done', from} end end
  return {'refused', from}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ask.overdue and tonumber(redis.call('ZSCORE', open, ask.member) or 0) > now then return {'early', from} end

if ask.take then
  attempt = redis.call('HINCRBY', job, 'attempt', 1)
  redis.call('HSET', job, 'worker', ask.take)
  redis.call('HSETNX', job, 'started_at', now)
  redis.call('HSET', job, 'attempt:' .. attempt, cjson.encode({number = attempt, started_at = now}))
  count(1, 'slim_job_attempts', attempt == 1 and 'first' or 'again')
  if attempt == 1 then
    observe((now - redis.call('HGET', job, 'created_at')) / 1000, 'slim_job_queue_wait_seconds')
  end
end
if (from == 'running' or from == 'cancelling') and to ~= 'running' and to ~= 'cancelling' then
  local ended = cjson.decode(redis.call('HGET', job, 'attempt:' .. attempt))
  ended.finished_at = now
  ended.outcome = (ask.overdue and to ~= 'succeeded' and 'lost') or (to == 'queued' and 'handed_back') or to
  redis.call('HSET', job, 'attempt:' .. attempt, cjson.encode(ended))
end
if ask.lost then
  redis.call('HINCRBY', job, 'lost', 1)
  count(1, 'slim_jobs_reclaimed', from == 'queued' and 'entry_lost' or 'worker_lost')
end
for field, value in pairs((ask.set or {})[to] or {}) do redis.call('HSET', job, field, value) end
local event = ask.event
local request
if to ~= from then
  request = cjson.decode(redis.call('HGET', job, 'request'))
  count(-1, 'slim_jobs', from)
  count(1, 'slim_jobs', to)
  redis.call('HSET', job, 'status', to)
  redis.call('ZREM', index .. ':' .. from, id)
  redis.call('ZADD', index .. ':' .. to, 0, id)
  event = {type = 'status', data = (ask.news or {})[to] or cjson.encode({status = to})}
end
if to == 'succeeded' or to == 'failed' or to == 'cancelled' then
  redis.call('HSET', job, 'finished_at', now)
  if request then
    local task = task_of(request)
    count(1, 'slim_jobs_completed', task, request.method.criterion, to)
    local started = redis.call('HGET', job, 'started_at')
    if started then observe((now - started) / 1000, 'slim_job_duration_seconds', task, to) end
    if type(request.retention_days) == 'number' then
      local expiry = now + math.floor(request.retention_days * 86400000)
      redis.call('HSET', job, 'expires_at', expiry)
      redis.call('ZADD', expiries, expiry, 'job/' .. ask.member)
    end
    release_slot(slots, waiting, open, ask.tenant, id)
  end
  redis.call('ZREM', open, ask.member)
elseif ask.check_after_ms then
  redis.call('ZADD', open, now + ask.check_after_ms, ask.member)
end
if event then
  local fields = {'type', event.type, 'attempt', attempt, 'data', event.data}
  local entry = redis.call('XADD', events, 'MAXLEN', ask.max_events, '*', unpack(fields))
  if request and type(request.webhook) == 'table' then
    redis.call('ZADD', webhooks, now, ask.member .. '/' .. entry)
  end
end
return {'done', to}
"""
)

# Takes a job out of every list and the gauge, once, whatever its record says.
DELETE = (
    LUA
    + HAND_ON
    + """
local job, events, index, open, slots, waiting = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7], KEYS[8]
local tenant, id = ARGV[1], ARGV[2]
for place = 3, #ARGV do
  if redis.call('ZREM', index .. ':' .. ARGV[place], id) == 1 then count(-1, 'slim_jobs', ARGV[place]) end
end
redis.call('ZREM', index, id)
redis.call('DEL', job, events)
redis.call('ZREM', open, tenant .. '/' .. id)
release_slot(slots, waiting, open, tenant, id)
"""
)


@dataclass(frozen=True)
class SlotRequest:
    """For a slot, where the tenant has less than `limit`, and a place in the queue with it; else for a place in the
    tenant's line, after those of lower rank and earlier ones, where nobody need look at the job for so many seconds.
    `entry` is of the attempt that follows `follows`."""

    limit: int
    rank: int
    put_off_seconds: int
    follows: int
    entry: Entry

    @property
    def terms(self) -> dict[str, Any]:
        """All but the entry's data, which are not text."""
        return {
            "limit": self.limit,
            "rank": self.rank,
            "put_off_seconds": self.put_off_seconds,
            "follows": self.follows,
            "entry": self.entry.id,
            "place": self.entry.place,
            "fields": self.entry.fields,
        }


NOT_CREATED: dict[int, Literal["exists", "full"]] = {0: "exists", -1: "full"}
Verdict = Literal["done", "missing", "stale", "refused", "early"]


@dataclass(frozen=True)
class Outcome:
    """What `CHANGE` did, and the status that the job has now (None: there is no such job)."""

    verdict: Verdict
    status: JobStatus | None


class StateMachine:
    """Runs the scripts against one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._create = redis.register_script(CREATE)
        self._change = redis.register_script(CHANGE)
        self._delete = redis.register_script(DELETE)

    def create(
        self,
        tenant: str,
        fields: Mapping[str, Any],
        *,
        check_after_ms: int,
        max_queued: int | None,
        wish: SlotRequest | None,
    ) -> int | Literal["exists", "full"]:
        """Redis' time, in milliseconds, at which the job is queued; or why it is not: there is one with this id, or the
        tenant has `max_queued`."""
        rest = dict(fields)
        job_id, request = rest.pop("id"), rest.pop("request")
        member = open_member(tenant, job_id)
        ask: dict[str, Any] = {"check_after_ms": check_after_ms, "member": member, "tenant": tenant, "fields": rest}
        options = {"max_queued": max_queued, "wish": wish and wish.terms}
        ask |= {name: value for name, value in options.items() if value is not None}
        arguments = [json.dumps(ask), job_id, request, wish.entry.data if wish else b""]
        created = int(self._create(keys=self._keys(tenant, job_id), args=arguments))
        return NOT_CREATED.get(created, created)

    def apply(self, tenant: str, job_id: str, moves: Moves, **ask: Any) -> Outcome:
        """One atomic change; `ask` as described above the script."""
        ask |= {"moves": dict(moves), "member": open_member(tenant, job_id), "tenant": tenant, "max_events": MAX_EVENTS}
        verdict, status = self._change(keys=self._keys(tenant, job_id), args=[json.dumps(ask)])
        return Outcome(verdict, JobStatus(status) if status else None)

    def delete(self, tenant: str, job_id: str) -> None:
        """Forgets a job and its events."""
        self._delete(keys=self._keys(tenant, job_id), args=[tenant, job_id, *JobStatus])

    def _keys(self, tenant: str, job_id: str) -> list[str]:
        own = [job_key(tenant, job_id), events_key(tenant, job_id), index_key(tenant)]
        return [*own, OPEN, WEBHOOKS, EXPIRIES, slots_key(tenant), waiting_key(tenant)]
