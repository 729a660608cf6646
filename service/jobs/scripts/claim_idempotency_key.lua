-- Claims an Idempotency-Key for a request, or says how the request with it was answered.
--
-- KEYS: the key's hash. ARGV: fingerprint of the request, id of the job to make, how long a claim holds, how long the
-- key is kept; both in milliseconds.
--
-- Returns {outcome, value}: `claimed` and the id of the job to make (that of the first request, if there was one whose
-- claim ran out), `reused` (another request came with this key), `answered` and the stored response, `in_progress` and
-- the milliseconds that the claim of the first request still holds.
local fingerprint, job_id, claim_ms, kept_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'job_id', 'until', 'answer')
if not known[1] then
  redis.call('HSET', KEYS[1], 'fingerprint', fingerprint, 'job_id', job_id, 'until', now + claim_ms)
  redis.call('PEXPIRE', KEYS[1], kept_ms)
  return {'claimed', job_id}
end
if known[1] ~= fingerprint then return {'reused', ''} end
if known[4] then return {'answered', known[4]} end
if tonumber(known[3]) > now then return {'in_progress', tostring(tonumber(known[3]) - now)} end
redis.call('HSET', KEYS[1], 'until', now + claim_ms)
return {'claimed', known[2]}
