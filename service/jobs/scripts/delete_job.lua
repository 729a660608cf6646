-- Removes a job from every index and counter, once, whatever its record says.
--
-- KEYS: see `job_keys`. ARGV: tenant, job id, then every status that a job can have.
local keys, tenant, id = job_keys(KEYS), ARGV[1], ARGV[2]
for argument = 3, #ARGV do
  local status = ARGV[argument]
  if redis.call('ZREM', keys.index .. ':' .. status, id) == 1 then count(-1, 'slim_jobs', status) end
end
redis.call('ZREM', keys.index, id)
redis.call('DEL', keys.job, keys.events)
redis.call('ZREM', keys.open, tenant .. '/' .. id)
release_slot(keys, tenant, id)
