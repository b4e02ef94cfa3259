-- The pullers have returned: is the job over?
-- ARGV 1 prefix  2 job  3 runs that an item may have  4 rounds without progress that are allowed
--      5 the message that asks
-- Reply {'ended'} nothing is left to do, or another does it
--       {'wait', ms} a puller is at work, or an item or the reduce waits for its retry
--       {'reduce'}
--       {'more', items that wait, rounds without progress} send pullers again
local LONGEST_WAIT = 60000
local s = redis.call('HMGET', STATE, 'ttl', 'ended')
if not s[1] or s[2] then return {'ended'} end
check_caller()
local ms_left = check_deadline()
local stopped = redis.call('HEXISTS', STATE, 'stop') == 1
if stopped then end_waits(redis.call('ZRANGE', LATER, 0, -1)) end
end_due_waits()
for _, lease in ipairs(held_leases()) do
  if stopped or not is_unfinished(lease.owner) then reclaim(lease, 1, tonumber(ARGV[3])) end
end
local v = redis.call('HMGET', STATE, 'eof', 'waiting', 'moves', 'seen_moves', 'stalled',
  'rounds_of')
if v[1] and tonumber(v[2]) > 0 or not v[1] then
  -- A message is one round, however often it asks: its answer may be lost.
  local stalled = 0
  if (v[3] or '0') == v[4] then
    stalled = tonumber(v[5] or 0) + (v[6] == ARGV[5] and 0 or 1)
  end
  redis.call('HSET', STATE, 'seen_moves', v[3] or '0', 'stalled', stalled, 'rounds_of', ARGV[5])
  keep_alive()
  if stalled <= tonumber(ARGV[4]) then return {'more', tonumber(v[2]), stalled} end
  stop_job('failed', redis.call('HGET', STATE, 'excuse') or 'no node worked on it')
end
keep_alive()
if #held_leases() > 0 then return {'wait', 1000} end
local next_due = redis.call('ZRANGE', LATER, 0, 0, 'WITHSCORES')[2]
if next_due then
  local ms = next_due - now()
  if ms_left >= 0 then ms = math.min(ms, ms_left) end
  return {'wait', math.max(10, math.min(ms, LONGEST_WAIT))}
end
-- A reduce runs once, unless it dies: a second `finish` leaves it to the first. One that asked for
-- a retry waits for that.
local due = tonumber(redis.call('HGET', STATE, 'reduce_due') or 0) - now()
if due > 0 then return {'wait', math.max(10, math.min(due, LONGEST_WAIT))} end
local reducer = redis.call('HGET', STATE, 'reducer')
if reducer and reducer ~= ARGV[5] and is_unfinished(reducer) then return {'ended'} end
redis.call('HSET', STATE, 'reducer', ARGV[5])
return {'reduce'}
