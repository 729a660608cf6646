-- Functions that the scripts share. `service.infrastructure.redis_scripts` puts this file before each script, and
-- before it two constants: COUNTERS (key of the hash of counters) and BOUNDS (upper bounds of histograms of seconds).

-- Redis' clock in milliseconds since 1970. Every time that is stored comes from this clock.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Writes a table of fields to a hash.
local function write_hash(key, fields)
  local flat = {}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', key, unpack(flat))
end

-- Adds `by` to a counter or gauge; `...` is its name and the values of its labels.
local function count(by, ...)
  redis.call('HINCRBY', COUNTERS, table.concat({...}, '|'), by)
end

-- Adds one observation to a histogram; `...` is its name and the values of its labels.
local function observe(seconds, ...)
  local bucket = 0
  for index, bound in ipairs(BOUNDS) do if seconds > bound then bucket = index end end
  local name = table.concat({...}, '|')
  redis.call('HINCRBY', COUNTERS, name .. '|' .. bucket, 1)
  redis.call('HINCRBYFLOAT', COUNTERS, name .. '|sum', seconds)
end

-- The value of the label `task` of a job's counters.
local function task_label(request)
  if type(request.task) ~= 'table' then return 'union' end
  return type(request.task.preset) == 'string' and request.task.preset or 'custom'
end

-- The keys of a job, in the order in which `service.jobs.state_machine.keys_of` passes them.
local function job_keys(keys)
  return {
    job = keys[1], events = keys[2], index = keys[3], open = keys[4],
    webhooks = keys[5], expiries = keys[6], slots = keys[7], waiting = keys[8],
  }
end

-- Records that an RQ job depends on others, as RQ does: RQ enqueues it when all of them have finished.
local function defer_rq_job(rq_job)
  for _, other in ipairs(rq_job.after) do
    redis.call('SADD', rq_job.prefix .. other.id .. ':dependents', rq_job.id)
    redis.call('SADD', rq_job.prefix .. ':' .. rq_job.id .. ':dependencies', other.id)
  end
  redis.call('ZADD', rq_job.deferred, math.floor(now_ms() / 1000), rq_job.id)
end

-- Puts an attempt in RQ's queue, unless RQ knows it already. `rq_job` is `RqJobHash.arguments`, `data` its payload. Of
-- one that depends on others, these are put there in its place.
-- RQ has a queue for each priority, from which it takes without the safety of BLMOVE. Here there is one queue, sorted
-- by rank: the attempt goes before those of higher rank and after those of its own.
local function enqueue_rq_job(rq_job, data)
  local key, queue = rq_job.prefix .. rq_job.id, rq_job.queue
  if redis.call('EXISTS', key) == 1 then return end
  write_hash(key, rq_job.fields)
  redis.call('HSET', key, 'data', data, 'slim_rank', rq_job.rank)
  redis.call('SADD', rq_job.queues, queue)
  if #rq_job.after > 0 then
    defer_rq_job(rq_job)
    for _, other in ipairs(rq_job.after) do enqueue_rq_job(other, other.data) end
    return
  end
  local position, ahead = -1, redis.call('LINDEX', queue, -1)
  while ahead and tonumber(redis.call('HGET', rq_job.prefix .. ahead, 'slim_rank') or '1') > rq_job.rank do
    position = position - 1
    ahead = redis.call('LINDEX', queue, position)
  end
  if position == -1 then redis.call('RPUSH', queue, rq_job.id)
  elseif ahead then redis.call('LINSERT', queue, 'AFTER', ahead, rq_job.id)
  else redis.call('LPUSH', queue, rq_job.id) end
end

-- Makes the first job that waits for a slot of the tenant due for the reconciler, which enqueues it.
local function check_next_waiting(keys, tenant)
  local next_id = redis.call('ZRANGE', keys.waiting, 0, 0)[1]
  if next_id then redis.call('ZADD', keys.open, 'XX', 0, tenant .. '/' .. next_id) end
end

-- Whether a queued job has a slot of its tenant, which it gets if one is free and no other job waits before it.
-- Otherwise it waits, and the reconciler need not check it for a long time. A job that is no longer queued gets neither
-- a slot nor a place among those that wait, because nothing would take it out again.
local function take_slot(keys, tenant, id, request)
  if redis.call('HGET', keys.job, 'status') ~= 'queued' then return false end
  if redis.call('SISMEMBER', keys.slots, id) == 1 then return true end
  redis.call('ZADD', keys.waiting, request.rank, id)
  local is_full = redis.call('SCARD', keys.slots) >= request.limit
  if is_full or redis.call('ZRANGE', keys.waiting, 0, 0)[1] ~= id then
    redis.call('ZADD', keys.open, 'XX', now_ms() + request.check_after_ms, tenant .. '/' .. id)
    return false
  end
  redis.call('SADD', keys.slots, id)
  redis.call('ZREM', keys.waiting, id)
  if redis.call('SCARD', keys.slots) < request.limit then check_next_waiting(keys, tenant) end
  return true
end

-- Takes a slot and enqueues the job's next attempt in the same step; 0 where the job has to wait for a slot. An attempt
-- that was prepared before the job's present one is left out.
local function take_slot_and_enqueue(keys, tenant, id, request, data)
  if not take_slot(keys, tenant, id, request) then return 0 end
  if tonumber(redis.call('HGET', keys.job, 'attempt')) == request.previous_attempt then
    enqueue_rq_job(request.rq_job, data)
  end
  return 1
end

-- Gives the slot of a job back, or its place among those that wait.
local function release_slot(keys, tenant, id)
  redis.call('SREM', keys.slots, id)
  redis.call('ZREM', keys.waiting, id)
  check_next_waiting(keys, tenant)
end
