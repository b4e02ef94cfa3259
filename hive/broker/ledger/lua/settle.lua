-- Settle the account: what is in no place goes home, what is gone is written off, the alarm ends.
-- Entries that nobody can read are taken out, too, and their rows kept for people (KEPT seconds).
-- It looks at every id that the channel holds and at the name of every key. That costs some
-- microseconds each, for which everybody else waits.
-- KEYS none
-- ARGV 1 prefix
-- Reply {sent home, written off}
-- Keeps: what is somewhere stays there, unless it cannot be read and nobody runs it. A reservation
--        or a placement counts only while its holder, or its node, has an epoch: otherwise nobody
--        would ever bring it home.
local KEPT = 30 * 86400
local known, runs, looked_into = {}, {}, {}
for _, key in ipairs({'epochs', 'entries', 'dead'}) do
  need('HLEN', P .. key)
end
need('ZCARD', P .. 'delayed')
keep('HLEN', P .. 'counters')

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
  local reservations = ask('HGETALL', key) or {}
  for i = 1, #reservations, 2 do
    local owner = holder(reservations[i + 1])
    if owner and redis.call('HEXISTS', P .. 'epochs', owner) == 1 then
      known[reservations[i]], runs[reservations[i]] = true, true
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
  local ids = ask('ZRANGE', key, 0, -1)
  if ids and not living[node] then return redis.call('DEL', key) end
  for _, id in ipairs(ids or {}) do known[id] = key end
end)
for _, id in ipairs(redis.call('ZRANGE', P .. 'delayed', 0, -1)) do known[id] = true end
for _, id in ipairs(redis.call('HKEYS', P .. 'dead')) do known[id] = true end

-- Lists that no node reads, which an older release made of a priority that is none.
for _, list in ipairs(ask('SMEMBERS', P .. 'queues') or {}) do
  if not is_served(list) then
    redis.call('DEL', list)
    redis.call('SREM', P .. 'queues', list)
  end
end

local function take_out(id, value)
  redis.call('HSET', P .. 'unreadable', id, value)
  redis.call('EXPIRE', P .. 'unreadable', KEPT)
  if type(known[id]) == 'string' then redis.call('ZREM', known[id], id) end
  redis.call('ZREM', P .. 'delayed', id)
  redis.call('HDEL', P .. 'dead', id)
  ask('SREM', P .. 'untold', id)
  finish(id, '')
end

local home = 0
for _, id in ipairs(redis.call('HKEYS', P .. 'entries')) do
  local value = redis.call('HGET', P .. 'entries', id)
  local _, queue, priority = unpack_entry(value)
  if not queue then
    put_entry_aside(id, value)
    if not runs[id] then take_out(id, value) end
  elseif not known[id] then
    local list = queue_list(queue, priority)
    if not looked_into[list] then
      looked_into[list] = true
      for _, waiting in ipairs(ask('LRANGE', list, 0, -1) or {}) do known[waiting] = true end
    end
    if not known[id] then
      known[id] = true
      home = home + (go_home(id, 0, 0, '') > 0 and 1 or 0)
    end
  end
end
-- A counter; one that is no number, or none to count on, begins anew.
local function counted(name)
  local value = redis.call('HGET', P .. 'counters', name) or '0'
  if #value <= 15 and string.find(value, '^-?%d+$') then return tonumber(value) end
  put_aside(P .. 'counters', name .. ' ' .. value, 'it was no number to count on, and begins anew')
  redis.call('HDEL', P .. 'counters', name)
  return 0
end

local gone = counted('accepted') - counted('done') - counted('written_off')
  - redis.call('HLEN', P .. 'entries')
if gone ~= 0 then count('written_off', gone) end
keep('HDEL', P .. 'account', 'alarm')
redis.pcall('HDEL', P .. 'audit', 'alarm') -- an older nexus' own, see account.lua
return {home, gone}
