-- Deletes the record of a score set where it is still the one that was found damaged: another job may have replaced it.
--
-- KEYS: record, the tenant's index, expiries. ARGV: the damaged record, its member of the index, its member of expiries.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[3])
return 1
