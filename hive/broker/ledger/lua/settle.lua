-- Settle the account: what is in no place goes home, what is gone is written off, the alarm ends.
-- It looks at every id that the channel holds and at the name of every key. That costs some
-- microseconds each, for which everybody else waits.
-- KEYS none
-- ARGV 1 prefix
-- Reply {sent home, written off}
-- Keeps: what is somewhere stays there. A reservation or a placement counts only while its holder,
--        or its node, has an epoch: otherwise nobody would ever bring it home.
local known, looked_into = {}, {}

-- Calls `visit(key, node)` for what a kind of key holds, also for nodes long gone.
local function each_node(kind, visit)
  local cursor, begins = '0', P .. kind .. ':'
  repeat
    local found = redis.call('SCAN', cursor, 'MATCH',
      string.gsub(begins, '[%*%?%[%]\\]', '\\%0') .. '*', 'COUNT', 1000)
    for _, key in ipairs(found[2]) do visit(key, string.sub(key, #begins + 1)) end
    cursor = found[1]
  until cursor == '0'
end

each_node('reserved', function(key)
  local reservations = redis.call('HGETALL', key)
  for i = 1, #reservations, 2 do
    if redis.call('HEXISTS', P .. 'epochs', holder(reservations[i + 1])) == 1 then
      known[reservations[i]] = true
    else
      redis.call('HDEL', key, reservations[i])
    end
  end
end)
local living = {}
for _, incarnation in ipairs(redis.call('HKEYS', P .. 'epochs')) do
  living[string.match(incarnation, '^(.*)/') or ''] = true
end
each_node('placed', function(key, node)
  if not living[node] then return redis.call('DEL', key) end
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do known[id] = true end
end)
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
local gone = tonumber(counters[1] or 0) - tonumber(counters[2] or 0) - tonumber(counters[3] or 0)
  - redis.call('HLEN', P .. 'entries')
if gone ~= 0 then count('written_off', gone) end
redis.call('HDEL', P .. 'account', 'alarm')
redis.pcall('HDEL', P .. 'audit', 'alarm') -- an older nexus' own, see account.lua
return {home, gone}
