-- Replaces a tenant's signing secret and keeps the old one for a while.
--
-- KEYS: the present secret, the old one. ARGV: the new secret, how long the old one is kept in seconds.
local before = redis.call('GET', KEYS[1])
if before then redis.call('SET', KEYS[2], before, 'EX', ARGV[2]) end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
