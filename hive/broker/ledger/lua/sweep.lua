-- Clear away, a bounded part at a time, what nobody owns any more: the keys of nodes that are gone,
-- and rows of messages that are done. No step of the channel leaves any; a person, an older release
-- or a disk may have left some.
-- KEYS none
-- ARGV 1 prefix  2 about how many keys, and rows, to look at  3 cursor of the keys
--      4 name of a hash with a row for each message  5 cursor of its rows
--      6 'field' or 'value': which of a row is the publish id  7 set of the same ids, or ''
-- Reply {next cursor of the keys, next cursor of the rows, what was cleared away or sent home}
-- Keeps: accepted work. What a gone node holds goes home; a row is removed only when its message
--      has no entry.
-- A run may have its message back before its incarnation has an epoch again (taken_away in the
-- channel's lib.lua). Such a reservation is left alone for so long (ms).
local ATTACHES = 10000
local swept, t = 0, now()
for _, key in ipairs({'epochs', 'entries'}) do need('HLEN', P .. key) end

-- Read once: to ask for each incarnation by itself would cost more than all the rest.
local epochs, living, beating = redis.call('HKEYS', P .. 'epochs'), {}, {}
for _, incarnation in ipairs(epochs) do living[incarnation] = true end
local beats = ask('ZRANGE', P .. 'beats', 0, -1)
for _, incarnation in ipairs(beats or {}) do beating[incarnation] = true end

local function lives(incarnation) return living[incarnation] end

local function send_home(id)
  swept = swept + 1
  go_home(id, 0, 0, '')
end

local sweep = {}

function sweep.incarnations(key)
  for _, incarnation in ipairs(ask('SMEMBERS', key) or {}) do
    if not lives(incarnation) then swept = swept + redis.call('SREM', key, incarnation) end
  end
end

function sweep.placed(key, node)
  sweep.incarnations(P .. 'incarnations:' .. node)
  if redis.call('EXISTS', P .. 'incarnations:' .. node) == 1 then return end
  for _, id in ipairs(ask('ZREVRANGE', key, 0, tonumber(ARGV[2])) or {}) do
    redis.call('ZREM', key, id)
    send_home(id)
  end
end

function sweep.reserved(key)
  local reservations = ask('HGETALL', key) or {}
  for i = 1, #reservations, 2 do
    local owner = holder(reservations[i + 1])
    local at = tonumber(string.match(reservations[i + 1], '|(%d+)') or 0)
    if not owner then
      put_aside(key, reservations[i] .. ' ' .. reservations[i + 1], 'it is no reservation; its '
        .. 'message goes home')
    end
    if not owner or not lives(owner) and t - at > ATTACHES then
      redis.call('HDEL', key, reservations[i])
      send_home(reservations[i])
    end
  end
end

-- The wake lists of an older release have no time to live: give them one.
function sweep.wake(key)
  if redis.call('TTL', key) == -1 then swept = swept + redis.call('EXPIRE', key, 60) end
end

local found = redis.call('SCAN', ARGV[3], 'MATCH', string.gsub(P, '[%*%?%[%]\\]', '\\%0') .. '*',
  'COUNT', ARGV[2])
for _, key in ipairs(found[2]) do
  local kind, node = string.match(string.sub(key, #P + 1), '^(%w+):(.+)$')
  if kind and sweep[kind] then sweep[kind](key, node) end
end

-- An incarnation without a beat would never be found silent by a watchdog: give it the oldest beat.
for _, incarnation in ipairs(beats and epochs or {}) do
  if not beating[incarnation] then
    swept = swept + redis.call('ZADD', P .. 'beats', 0, incarnation)
  end
end
for _, incarnation in ipairs(ask('HKEYS', P .. 'held') or {}) do
  if not lives(incarnation) then swept = swept + redis.call('HDEL', P .. 'held', incarnation) end
end

local rows = P .. ARGV[4]
local part = ask('HSCAN', rows, ARGV[5], 'COUNT', ARGV[2]) or {'0', {}}
for i = 1, #part[2], 2 do
  local field = part[2][i]
  local id = ARGV[6] == 'value' and part[2][i + 1] or field
  if redis.call('HEXISTS', P .. 'entries', id) == 0 then
    swept = swept + redis.call('HDEL', rows, field)
    if ARGV[7] ~= '' then ask('SREM', P .. ARGV[7], id) end
  end
end
return {found[1], part[1], swept}
