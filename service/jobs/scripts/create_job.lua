-- Makes a queued job and, where its tenant has a slot for it, enqueues its first attempt.
--
-- KEYS: see `job_keys`. ARGV: options as JSON, the job's id, its request as JSON, payload of the RQ job.
-- Options: tenant, member (tenant/id), fields (of the record), check_after_ms (time to the reconciler's first check),
-- max_queued (of the tenant; optional), slot_request (optional: without it the caller enqueues the job).
--
-- Returns the time of creation in milliseconds; 0 where a job with this id exists, which stays as it is because the
-- same request came twice; -1 where the tenant has `max_queued` queued jobs.
local keys, options, id, request_json, data = job_keys(KEYS), cjson.decode(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local queued = keys.index .. ':queued'

local function create()
  local now = now_ms()
  redis.call('HSET', keys.job, 'id', id, 'status', 'queued', 'created_at', now, 'request', request_json)
  write_hash(keys.job, options.fields)
  redis.call('ZADD', keys.index, 0, id)
  redis.call('ZADD', queued, 0, id)
  redis.call('ZADD', keys.open, now + options.check_after_ms, options.member)
  redis.call('XADD', keys.events, '*', 'type', 'status', 'attempt', 0, 'data', '{"status":"queued"}')
  local request = cjson.decode(request_json)
  count(1, 'slim_jobs', 'queued')
  count(1, 'slim_jobs_submitted', task_label(request), request.method.criterion)
  return now
end

local exists = redis.call('EXISTS', keys.job) == 1
if not exists and options.max_queued and redis.call('ZCARD', queued) >= options.max_queued then return -1 end
-- Inline rows are stored before the job is made, with an expiry that holds as long as there is no job.
redis.call('ZREM', keys.expiries, 'rows/' .. options.member)
local created = exists and 0 or create()
if options.slot_request then take_slot_and_enqueue(keys, options.tenant, id, options.slot_request, data) end
return created
