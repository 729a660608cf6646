-- Claims webhook messages that are due: each is due again after the claim's time, in case its sender dies.
--
-- KEYS: the set of messages. ARGV: most messages to claim, how long a claim holds in milliseconds.
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, message in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], message) end
return due
