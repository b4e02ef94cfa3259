-- An item of a lease asked to be run again later: commit what is done before it, and let it wait.
-- ARGV 1 prefix  2 job  3 lease  4 first  5 n  6 entry  7-10 ok, failed, timeout, cancelled
--      11 us  12 partial or ''
--      13 ms until the item behind those n is due  14 what becomes of it: `runs:retries:arguments`
-- Reply the first item that is still under the lease, -1 when none is, or the lease is gone.
-- Keeps: as step. The job lives on until the item is due, and some time longer.
local lease = read_lease(ARGV[3])
local n, ms = tonumber(ARGV[5]), tonumber(ARGV[13])
if not lease then return -1 end
if lease.first ~= tonumber(ARGV[4]) then return lease.first end
if n >= lease.length then return -1 end
if n > 0 then
  write_outcomes(lease, lease.first, n, ARGV[6], {ARGV[7], ARGV[8], ARGV[9], ARGV[10]}, ARGV[11],
    ARGV[12])
end
local item = lease.first + n
local rest = lease.length - n - 1
if rest > 0 then
  redis.call('HSET', LEASES, lease.id, table.concat({lease.block, lease.base, item + 1, rest,
    lease.attempt, lease.owner, lease.node}, ':'))
else
  redis.call('HDEL', LEASES, lease.id)
end
redis.call('HSET', AGAIN, item, ARGV[14])
bump('moves', 1)
if ms <= 0 or redis.call('HEXISTS', STATE, 'stop') == 1 then
  give_back(lease.block, lease.base, item, 1, lease.attempt, lease.attempt - 1)
else
  wait_for_retry(lease, item, ms)
end
local seconds = 2 * math.ceil(ms / 1000) + 600
if seconds > tonumber(redis.call('HGET', STATE, 'ttl')) then
  redis.call('HSET', STATE, 'ttl', seconds)
end
keep_alive()
if rest > 0 then return item + 1 end
return -1
