-- The keeper's step while an item runs long: commit what its lease has finished, leave that item
-- under the lease, give the rest back.
-- ARGV 1 prefix  2 job  3 lease  4 first  5 n  6 entry  7-10 ok, failed, timeout, cancelled
--      11 us  12 partial or ''
-- Reply 1, or 0 when the lease is gone.
-- Keeps: as step.
local lease = read_lease(ARGV[3])
local n = tonumber(ARGV[5])
if not lease or lease.first ~= tonumber(ARGV[4]) or n >= lease.length then return 0 end
if n > 0 then
  write_outcomes(lease, lease.first, n, ARGV[6], {ARGV[7], ARGV[8], ARGV[9], ARGV[10]}, ARGV[11],
    ARGV[12])
end
local running = lease.first + n
redis.call('HSET', LEASES, lease.id, table.concat({lease.block, lease.base, running, 1,
  lease.attempt, lease.owner,
  lease.node}, ':'))
local rest = lease.length - n - 1
if rest > 0 then
  give_back(lease.block, lease.base, running + 1, rest, lease.attempt, lease.attempt - 1)
end
keep_alive()
return 1
