-- Records how many bytes an item of a tenant takes in the object store, unless that passes the tenant's quota.
--
-- KEYS: the tenant's hash of items. ARGV: item, its size, the quota (empty: none).
-- The field `total` has the sum, so that reading it takes as long for one item as for a hundred thousand.
--
-- Returns {1 where the size was recorded, bytes in use before}.
local bytes, item, size, quota = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local before = tonumber(redis.call('HGET', bytes, item) or '0')
local used = tonumber(redis.call('HGET', bytes, 'total') or '0')
if quota and size > before and used + size - before > quota then return {0, used} end
if size > 0 then redis.call('HSET', bytes, item, size) else redis.call('HDEL', bytes, item) end
redis.call('HINCRBY', bytes, 'total', size - before)
return {1, used}
