-- Remember revoked task ids, so that no node that meets one runs it. What is delayed goes home now:
-- the node that takes it there stores that it was revoked, for those who wait, while it could
-- become due only after the revocation is forgotten.
-- KEYS none
-- ARGV 1 prefix  2 seconds to remember  3.. task ids
-- Reply how many
local t = now()
need('HLEN', P .. 'entries')
keep('ZREMRANGEBYSCORE', P .. 'revoked', '-inf', t)
for i = 3, #ARGV do
  redis.call('ZADD', P .. 'revoked', t + tonumber(ARGV[2]) * 1000, ARGV[i])
  local id = ask('HGET', P .. 'ids', ARGV[i])
  if id and ask('ZREM', P .. 'delayed', id) == 1 then go_home(id, 0, 0, '') end
end
redis.call('EXPIRE', P .. 'revoked', tonumber(ARGV[2]))
return #ARGV - 2
