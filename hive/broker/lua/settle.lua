-- Settle the account: what is in no place goes home, what is gone is written off, the alarm ends. It looks at every id that the channel
-- holds, some microseconds each, while everybody else waits.
-- KEYS none
-- ARGV 1 prefix
-- Reply {sent home, written off}
-- Keeps: what is somewhere stays there. A reservation or a placement counts while its holder, or its node, has an epoch: nobody would
--        ever bring it home otherwise.
local known, looked_into, nodes = {}, {}, {}
for _, incarnation in ipairs(redis.call('HKEYS', P .. 'epochs')) do
  local node = string.match(incarnation, '^(.*)/')
  if node then nodes[node] = true end
end
for node in pairs(nodes) do
  local reserved = P .. 'reserved:' .. node
  local reservations = redis.call('HGETALL', reserved)
  for i = 1, #reservations, 2 do
    if redis.call('HEXISTS', P .. 'epochs', holder(reservations[i + 1])) == 1 then
      known[reservations[i]] = true
    else
      redis.call('HDEL', reserved, reservations[i])
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', P .. 'placed:' .. node, 0, -1)) do known[id] = true end
end
for _, id in ipairs(redis.call('ZRANGE', P .. 'delayed', 0, -1)) do known[id] = true end
for _, id in ipairs(redis.call('HKEYS', P .. 'dead')) do known[id] = true end

local home = 0
for _, id in ipairs(redis.call('HKEYS', P .. 'entries')) do
  if not known[id] then
    local _, queue, priority = unpack_entry(redis.call('HGET', P .. 'entries', id))
    local list = queue_list(queue, priority)
    if not looked_into[list] then
      looked_into[list] = true
      for _, waiting in ipairs(redis.call('LRANGE', list, 0, -1)) do known[waiting] = true end
    end
    if not known[id] then
      known[id] = true
      home = home + (go_home(id, 0, 0, '') > 0 and 1 or 0)
    end
  end
end
local counters = redis.call('HMGET', P .. 'counters', 'accepted', 'done', 'written_off')
local gone = tonumber(counters[1] or 0) - tonumber(counters[2] or 0) - tonumber(counters[3] or 0) - redis.call('HLEN', P .. 'entries')
if gone ~= 0 then count('written_off', gone) end
redis.call('HDEL', P .. 'audit', 'alarm')
return {home, gone}
