-- Nothing more of the job runs: what waits, and what is given back later, gets this status.
-- ARGV 1 prefix  2 job  3 status (cancelled | timeout | failed)  4 why
--      5 '1' also what is under lease, whoever runs it
--      6 '1' part of the input was never sent
-- Reply 1, or 0 when there is no such job or it has ended.
local ended = redis.call('HMGET', STATE, 'ttl', 'ended')
if not ended[1] or ended[2] then return 0 end
stop_job(ARGV[3], ARGV[4])
end_waits(redis.call('ZRANGE', LATER, 0, -1))
if ARGV[6] == '1' then redis.call('HSET', STATE, 'cut', 1) end
if ARGV[5] == '1' then
  for _, lease in ipairs(held_leases()) do
    redis.call('HDEL', LEASES, lease.id)
    give_back(lease.block, lease.base, lease.first, lease.length, lease.attempt, lease.attempt)
  end
end
keep_alive()
return 1
