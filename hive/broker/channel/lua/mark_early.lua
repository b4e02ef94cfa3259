-- A task that acknowledges early was started. Its reservation stays, so that its slot stays taken,
-- but is marked: a death drops the task instead of running it again.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 publish id
-- Reply 1 marked, 0 not (or no longer) held
local reserved = P .. 'reserved:' .. ARGV[2]
local value = ask('HGET', reserved, ARGV[4])
if not value or holder(value) ~= ARGV[3] then return 0 end
redis.call('HSET', reserved, ARGV[4], value .. '|early')
return 1
