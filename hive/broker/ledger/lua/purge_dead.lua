-- Remove dead letters, with their entries.
-- KEYS none
-- ARGV 1 prefix  2.. publish ids
-- Reply how many were removed; what is no dead letter is left alone
-- Keeps: a purged entry counts as done.
local purged = 0
need('HLEN', P .. 'entries')
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('HDEL', P .. 'dead', id) == 1 then
    ask('ZREM', P .. 'dead:order', id)
    ask('SREM', P .. 'untold', id)
    local value = redis.call('HGET', P .. 'entries', id)
    if value then
      local _, _, _, _, task_id = unpack_entry(value)
      finish(id, task_id)
      purged = purged + 1
    end
  end
end
if purged > 0 then
  count('purged', purged)
  count('done', purged)
end
return purged
