-- Look at a part of the entries. Of each, note the list in which it would wait, if there is one
-- (those that a plain Celery producer or an older release began are not known yet), and that its
-- requirements are in use.
-- KEYS none
-- ARGV 1 prefix  2 cursor ('0' to begin)  3 about how many entries to look at
-- Reply the next cursor, '0' when all were seen
-- Keeps: an entry that is there from the first call to the last is seen. Moves nothing.
local found = need('HSCAN', P .. 'entries', ARGV[2], 'COUNT', ARGV[3])
for i = 2, #found[2], 2 do
  local _, home, priority = unpack_entry(found[2][i])
  if not home then
    put_entry_aside(found[2][i - 1], found[2][i])
  else
    local list = queue_list(home, priority)
    if redis.call('EXISTS', list) == 1 then keep('SADD', P .. 'queues', list) end
    if string.sub(home, 1, 10) == 'venom:req:' then
      ask('ZREM', P .. 'requirements:idle', string.sub(home, 11))
    end
  end
end
return found[1]
