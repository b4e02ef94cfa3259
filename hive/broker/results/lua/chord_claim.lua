-- Around Celery's script for a finished chord member, which stands in `part_return`: a claim on the
-- callback may be taken over by the member that made it. Celery's claim outlives a killed process
-- by seconds; the redelivered last member finds it taken, and the chord would never end.
-- KEYS, ARGV and reply are Celery's: KEYS[6] is the claim, ARGV[1] the member's task id, ARGV[7]
-- how long a claim lasts (s)
-- Keeps: one claim at a time. A callback that one member publishes twice has one publish id, so
--        that the second changes nothing.
local owner = KEYS[6] .. ':owner'
if redis.call('GET', owner) == ARGV[1] and redis.call('GET', KEYS[6]) ~= 'done' then
  redis.call('DEL', KEYS[6])
end
local reply = part_return()
if reply[4] == 1 then redis.call('SET', owner, ARGV[1], 'EX', 60 * tonumber(ARGV[7])) end
return reply
