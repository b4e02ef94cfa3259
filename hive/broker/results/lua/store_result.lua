-- Store a task's state and tell those who wait for it, unless it has succeeded already.
-- KEYS 1 the result's key
-- ARGV 1 prefix  2 the meta as JSON, its status first  3 seconds it lives (0: for ever)
--      4 node  5 incarnation  6 publish id of the delivery that ran it ('' for none)
-- Reply 1 stored, 0 it had succeeded already, -1 the message was taken away from this delivery
-- Keeps: a success is final, and a run whose message was given to another node leaves no trace;
--        looking and storing are one step (Celery's own way is a GET, then a MULTI of SETEX and
--        PUBLISH).
if ARGV[6] ~= '' and taken_away(ARGV[4], ARGV[5], ARGV[6]) then
  count('fenced', 1)
  return -1
end
local before = redis.call('GETRANGE', KEYS[1], 0, 19)
if before == '{"status": "SUCCESS"' then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return 1
