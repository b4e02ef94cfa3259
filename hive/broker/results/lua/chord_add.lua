-- A member adds a task to its chord; the same task is counted once, however often the member's run
-- is repeated.
-- KEYS 1 the chord's count of added tasks  2 the chord's set of who is in already (Celery's keys .t
--      and .d)
-- ARGV 1 the added task's id  2 seconds that a chord's keys live (0: for ever)
-- Reply 1 counted, 0 it was already
-- Keeps: Celery removes both keys with the chord.
if redis.call('SADD', KEYS[2], 'added:' .. ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[1])
if ARGV[2] ~= '0' then
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[2]) end
end
return 1
