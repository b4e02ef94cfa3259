-- A connection of an incarnation starts to consume: what earlier connections may still send is
-- void, and what they reserved without this process knowing goes home.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 epoch (one more than the last)
--      5 '1' for an incarnation's first attach  6.. held publish ids
-- Reply {'fenced'} declared dead meanwhile, or {'ok', ids given back...}
-- Keeps: after it, the incarnation has reserved nothing but ids that its process holds.
local node, incarnation = ARGV[2], ARGV[3]
if ARGV[5] ~= '1' and redis.call('HEXISTS', P .. 'epochs', incarnation) == 0 then
  return {'fenced'}
end
redis.call('HSET', P .. 'epochs', incarnation, ARGV[4])
redis.call('SADD', P .. 'incarnations:' .. node, incarnation)
redis.call('ZADD', P .. 'beats', now(), incarnation)
local held, reply = {}, {'ok'}
for i = 6, #ARGV do held[ARGV[i]] = true end
local reservations = redis.call('HGETALL', P .. 'reserved:' .. node)
for i = 1, #reservations, 2 do
  local id = reservations[i]
  if not held[id] and holder(reservations[i + 1]) == incarnation then
    redis.call('HDEL', P .. 'reserved:' .. node, id)
    go_home(id, 0, 0, '')
    reply[#reply + 1] = id
  end
end
return reply
