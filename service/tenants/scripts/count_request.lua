-- Counts a request of a tenant in its present window of time.
--
-- KEYS: the tenant's counter. ARGV: length of a window in milliseconds.
-- A window begins with its first request and ends when the counter expires. A counter without an expiry (in a copied or
-- edited database) would shut the tenant out for ever, so it gets a new one.
--
-- Returns {requests in the window, milliseconds to its end}.
local used = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {used, left}
