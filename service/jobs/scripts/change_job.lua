-- Makes one transition of a job, or refuses it.
--
-- KEYS: see `job_keys`. ARGV[1]: options as JSON.
--   tenant, member     the job, as tenant and as tenant/id
--   transitions        status before -> status after; a status that is not among them is refused
--   max_events         of the job's history
--   attempt            optional: the attempt that the caller takes for the present one (fencing token)
--   worker             optional: start the next attempt for this worker
--   overdue            optional: only if the reconciler's check of the job is due
--   count_lost         optional: count the attempt as lost
--   check_after_ms     optional: time to the reconciler's next check, for a running job the end of its lease
--   fields             optional: status after -> fields of the record to write
--   event              optional: type and data of an event, where the status stays
--   status_events      optional: status after -> data of the event of a change of status
--
-- Returns {verdict, status}. Verdicts: `done` (also where an earlier call made the transition), `missing` (no such
-- job), `stale` (another attempt is the present one), `refused` (no transition from this status), `early` (not overdue).
local keys, options = job_keys(KEYS), cjson.decode(ARGV[1])
local record = redis.call('HMGET', keys.job, 'status', 'attempt', 'id', 'worker')
local from, attempt, id, worker = record[1], tonumber(record[2]), record[3], record[4]
local now = now_ms()

-- Why the transition is not made; nil where it is.
local function verdict_before(to)
  if options.worker and attempt == options.attempt + 1 and worker == options.worker and from == 'running' then
    return 'done'
  end
  if options.attempt and options.attempt ~= attempt then return 'stale' end
  if not to then
    for _, target in pairs(options.transitions) do if target == from and not options.worker then return 'done' end end
    return 'refused'
  end
  local due = tonumber(redis.call('ZSCORE', keys.open, options.member) or 0)
  if options.overdue and due > now then return 'early' end
end

local function start_attempt()
  attempt = redis.call('HINCRBY', keys.job, 'attempt', 1)
  redis.call('HSET', keys.job, 'worker', options.worker)
  redis.call('HSETNX', keys.job, 'started_at', now)
  redis.call('HSET', keys.job, 'attempt:' .. attempt, cjson.encode({number = attempt, started_at = now}))
  count(1, 'slim_job_attempts', attempt == 1 and 'first' or 'again')
  if attempt == 1 then
    observe((now - redis.call('HGET', keys.job, 'created_at')) / 1000, 'slim_job_queue_wait_seconds')
  end
end

local function end_attempt(to)
  local ended = cjson.decode(redis.call('HGET', keys.job, 'attempt:' .. attempt))
  ended.finished_at = now
  ended.outcome = (options.overdue and to ~= 'succeeded' and 'lost') or (to == 'queued' and 'handed_back') or to
  redis.call('HSET', keys.job, 'attempt:' .. attempt, cjson.encode(ended))
end

local function count_lost()
  redis.call('HINCRBY', keys.job, 'lost', 1)
  count(1, 'slim_jobs_reclaimed', from == 'queued' and 'rq_job_lost' or 'worker_lost')
end

local function change_status(to)
  count(-1, 'slim_jobs', from)
  count(1, 'slim_jobs', to)
  redis.call('HSET', keys.job, 'status', to)
  redis.call('ZREM', keys.index .. ':' .. from, id)
  redis.call('ZADD', keys.index .. ':' .. to, 0, id)
end

local function finish_job(to, request)
  local task = task_label(request)
  redis.call('HSET', keys.job, 'finished_at', now)
  count(1, 'slim_jobs_completed', task, request.method.criterion, to)
  local started = redis.call('HGET', keys.job, 'started_at')
  if started then observe((now - started) / 1000, 'slim_job_duration_seconds', task, to) end
  if type(request.retention_days) == 'number' then
    local expiry = now + math.floor(request.retention_days * 86400000)
    redis.call('HSET', keys.job, 'expires_at', expiry)
    redis.call('ZADD', keys.expiries, expiry, 'job/' .. options.member)
  end
  release_slot(keys, options.tenant, id)
end

local function add_event(event, request)
  local fields = {'type', event.type, 'attempt', attempt, 'data', event.data}
  local event_id = redis.call('XADD', keys.events, 'MAXLEN', options.max_events, '*', unpack(fields))
  if request and type(request.webhook) == 'table' then
    redis.call('ZADD', keys.webhooks, now, options.member .. '/' .. event_id)
  end
end

if not from then return {'missing', ''} end
local to = options.transitions[from]
local verdict = verdict_before(to)
if verdict then return {verdict, from} end

local was_running = from == 'running' or from == 'cancelling'
local is_finished = to == 'succeeded' or to == 'failed' or to == 'cancelled'
local event, request = options.event, nil
if options.worker then start_attempt() end
if was_running and to ~= 'running' and to ~= 'cancelling' then end_attempt(to) end
if options.count_lost then count_lost() end
for field, value in pairs((options.fields or {})[to] or {}) do redis.call('HSET', keys.job, field, value) end
if to ~= from then
  request = cjson.decode(redis.call('HGET', keys.job, 'request'))
  change_status(to)
  event = {type = 'status', data = (options.status_events or {})[to] or cjson.encode({status = to})}
end
if is_finished then
  finish_job(to, request)
  redis.call('ZREM', keys.open, options.member)
elseif options.check_after_ms then
  redis.call('ZADD', keys.open, now + options.check_after_ms, options.member)
end
if event then add_event(event, request) end
return {'done', to}
