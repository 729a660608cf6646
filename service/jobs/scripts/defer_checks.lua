-- Defers the reconciler's check of every due job whose next attempt is in RQ's queue.
--
-- KEYS: the set of unfinished jobs, RQ's queue. ARGV: time to the next check in milliseconds, number of due jobs to
-- skip, most jobs to look at, pattern of a job's key with %s for tenant and id.
-- The queue is read once for all jobs: a search of a long queue for each of them would hold Redis up.
--
-- Returns {due jobs looked at, those of them that stay due}.
local open, check_after_ms, offset, limit, key_pattern = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local in_queue = {}
-- A shard of an attempt has the id of the attempt, an underscore and its number.
for _, rq_job_id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do in_queue[string.match(rq_job_id, '^[^_]*')] = true end
local now, still_due = now_ms(), 0
local due = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'LIMIT', offset, limit)
for _, member in ipairs(due) do
  local tenant, id = string.match(member, '(.*)/(.*)')
  local record = redis.call('HMGET', string.format(key_pattern, tenant, id), 'status', 'attempt')
  local attempt = tonumber(record[2] or '')
  if record[1] == 'queued' and attempt and in_queue[id .. '-' .. (attempt + 1)] then
    redis.call('ZADD', open, now + check_after_ms, member)
  else
    still_due = still_due + 1
  end
end
return {#due, still_due}
