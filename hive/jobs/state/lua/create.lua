-- Begin a job.
-- ARGV 1 prefix  2 job  3 plan (JSON)  4 seconds to live  5 slots
--      6 items of a lease (0: sized as they run)  7 deadline, ms from now (0: none)
--      8 ms without a sign of life after which the feeder counts as gone
local deadline = tonumber(ARGV[7])
if deadline > 0 then deadline = deadline + now() end
redis.call('HSET', STATE, 'plan', ARGV[3], 'ttl', ARGV[4], 'slots', ARGV[5], 'chunk', ARGV[6],
  'deadline', deadline,
  'pushed', 0, 'waiting', 0, 'done', 0)
redis.call('SET', CALLER, 1, 'PX', ARGV[8])
keep_alive()
