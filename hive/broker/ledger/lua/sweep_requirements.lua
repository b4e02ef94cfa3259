-- Forget requirements that nothing was sent with for long, and that no unfinished message has.
-- KEYS none
-- ARGV 1 prefix  2 ms for which they must have been idle
--      3 when the last complete survey of all entries began (ms), or ''
-- Reply {now (ms), how many wait for a survey, how many were forgotten}
-- Keeps: the requirements of every entry. A publication takes its own out of the idle ones, and so
--        does the survey for each entry that it meets: what was idle before it began, and still is,
--        has no entry.
local requirements, idle, t, age = P .. 'requirements', P .. 'requirements:idle', now(),
  tonumber(ARGV[2])
local forgotten = 0
if ARGV[3] ~= '' then
  for _, field in ipairs(keep('ZRANGEBYSCORE', idle, '-inf', tonumber(ARGV[3]) - age, 'LIMIT',
    0, 1000)) do
    redis.call('ZREM', idle, field)
    forgotten = forgotten + redis.call('HDEL', requirements, field)
  end
  -- By this number, added to that of those that are left, the heartbeats learn of new ones.
  if forgotten > 0 then count('requirements_forgotten', forgotten) end
end
for _, field in ipairs(ask('HKEYS', requirements) or {}) do
  keep('ZADD', idle, 'NX', t, field)
end
return {t, keep('ZCOUNT', idle, '-inf', t - age), forgotten}
