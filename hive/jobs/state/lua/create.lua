-- Begin a job.
-- ARGV 1 prefix  2 job  3 plan (JSON)  4 seconds to live  5 slots
--      6 items of a lease (0: sized as they run)  7 deadline, ms from now (0: none)
--      8 ms for which the caller's sign of life lasts; it counts as gone after three times that
-- Keeps: a call whose answer was lost, and which comes late or again, changes nothing.
if redis.call('EXISTS', STATE) == 1 then return end
local deadline = tonumber(ARGV[7])
if deadline > 0 then deadline = deadline + now() end
redis.call('HSET', STATE, 'plan', ARGV[3], 'ttl', ARGV[4], 'slots', ARGV[5], 'chunk', ARGV[6],
  'deadline', deadline,
  'leash', 2 * ARGV[8],
  'pushed', 0, 'waiting', 0, 'done', 0)
hear_caller(ARGV[8])
keep_alive()
