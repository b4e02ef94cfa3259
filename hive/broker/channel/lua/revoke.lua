-- Remember revoked task ids, so that whichever node meets one does not run it. What is delayed goes
-- home now: the node that meets it tells those who wait, and it could be due after the revocation
-- is forgotten.
-- KEYS none
-- ARGV 1 prefix  2 seconds to remember  3.. task ids
-- Reply how many
local t = now()
redis.call('ZREMRANGEBYSCORE', P .. 'revoked', '-inf', t)
for i = 3, #ARGV do
  redis.call('ZADD', P .. 'revoked', t + tonumber(ARGV[2]) * 1000, ARGV[i])
  local id = redis.call('HGET', P .. 'ids', ARGV[i])
  if id and redis.call('ZREM', P .. 'delayed', id) == 1 then go_home(id, 0, 0, '') end
end
redis.call('EXPIRE', P .. 'revoked', tonumber(ARGV[2]))
return #ARGV - 2
