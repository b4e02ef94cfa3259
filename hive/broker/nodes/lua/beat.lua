-- beat: one heartbeat of one incarnation: it lives, this is its load, and what it holds.
--
-- KEYS none
-- ARGV 1 key prefix  2 incarnation `<node>/<tag>`  3 node id  4 load, as NodeTable writes it
--      5 what it holds, opaque here
--      6 start of the incarnation, unix seconds, and 7 its facts as JSON; both '' when they did not
--        change
--      8 ms without any heartbeat that mean that the broker was away (hearing.lua)
--      9.. of each run that demands memory: its publish id, and how many MiB it does not use yet
-- Keys used: venom:beats, venom:heard_since, venom:held,
--      venom:nodes:static | dynamic | versions | version | epoch, venom:reserved:<node>;
--      only read: venom:epochs, venom:requirements, venom:counters
-- Reply {'fenced' or 'ok', 1 when the next beat must bring the facts, now in ms,
--        number of requirements ever registered}
--
-- A dynamic value is one line for each incarnation of the node, the leading one first:
--      `<ms of last beat> <tag> <start> <version that wrote its facts> <load>`
-- The first is negative once the incarnation has left, the version 0 where it wrote no facts.
-- The incarnation that started last leads; an older one leads again when the newer is gone.
--
-- Invariant: an incarnation without an epoch (declared dead, or left) changes nothing. A node has
-- at most two lines, each of another incarnation, and its version is higher than every version
-- given out before. A key of another type in the place of the table's is deleted, and a version
-- that is no number begins anew: all of it is only what the nodes tell at their next beats.
local space = ARGV[1] .. 'venom:'
local incarnation, node, load, facts = ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local static, dynamic, versions = space .. 'nodes:static', space .. 'nodes:dynamic',
  space .. 'nodes:versions'
local KNOWN_FOR = 86400000

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

if redis.call('HEXISTS', space .. 'epochs', incarnation) == 0 then
  return {'fenced', 0, now, 0}
end

local function read(line)
  local at, tag, start, written, rest = string.match(line, '^(%S+) (%S+) (%S+) (%S+) (.*)$')
  return at and {at = at, tag = tag, start = start, written = written, load = rest}
end

local function write(part)
  return table.concat({part.at, part.tag, part.start, part.written, part.load}, ' ')
end

local function lives(part)
  return string.sub(part.at, 1, 1) ~= '-' and redis.call('HEXISTS', space .. 'epochs',
    node .. '/' .. part.tag) == 1
end

local function forget_the_long_silent()
  for _ = 1, 100 do
    local oldest = redis.call('ZRANGE', versions, 0, 0)[1]
    local line = oldest and redis.call('HGET', dynamic, oldest)
    if not oldest or (line and now - math.abs(tonumber(string.match(line, '^%S+') or '') or 0)
      <= KNOWN_FOR) then
      return
    end
    redis.call('ZREM', versions, oldest)
    redis.call('HDEL', dynamic, oldest)
    redis.call('HDEL', static, oldest)
  end
end

hear(space, incarnation, now, tonumber(ARGV[8]))
local held, counter = space .. 'held', space .. 'nodes:version'
for key, kind in pairs({[static] = 'hash', [dynamic] = 'hash', [versions] = 'zset',
  [held] = 'hash'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end
redis.call('HSET', held, incarnation, ARGV[5])
local version = redis.pcall('INCR', counter)
if type(version) ~= 'number' then
  version = 1
  redis.call('SET', counter, version)
end

local tag = string.match(incarnation, '[^/]*$')
local mine, rival = {tag = tag, start = '0', written = '0'}, nil
local leads = false
for line in string.gmatch(redis.call('HGET', dynamic, node) or '', '[^\n]+') do
  local part = read(line)
  if part and part.tag == tag then
    mine = part
    leads = rival == nil
  elseif part and lives(part) then
    rival = part
  end
end
if facts ~= '' then mine.start = ARGV[6] end
if not leads then
  leads = rival == nil or (facts ~= ''
    and (tonumber(mine.start) or 0) >= (tonumber(rival.start) or 0))
end

mine.at, mine.load = string.format('%.0f', now), load
if not leads then
  mine.written = '0'
elseif facts ~= '' then
  mine.written = string.format('%.0f', version)
  redis.call('HSET', static, node, facts)
end

local value = write(mine)
if rival and leads then
  rival.written = '0'
  value = value .. '\n' .. write(rival)
elseif rival then
  value = write(rival) .. '\n' .. value
end
redis.call('HSET', dynamic, node, value)
redis.call('ZADD', versions, version, node)

-- What is measured as free, and what of it was promised, are as of one moment (free_memory in
-- lib.lua).
for i = 9, #ARGV, 2 do
  local reserved, mine = space .. 'reserved:' .. node, incarnation .. '|'
  local value = redis.pcall('HGET', reserved, ARGV[i])
  if type(value) == 'string' and string.sub(value, 1, #mine) == mine then
    local at, rest = string.match(value, '^(%d+|)%d+(MB.*)$', #mine + 1)
    if at then redis.call('HSET', reserved, ARGV[i], mine .. at .. ARGV[i + 1] .. rest) end
  end
end

if version == 1 then
  redis.call('SET', space .. 'nodes:epoch', clock[1] .. '.' .. clock[2])
end
if version % 64 == 1 then
  forget_the_long_silent()
  for _, key in ipairs({static, dynamic, versions, counter, space .. 'nodes:epoch', held}) do
    redis.call('PEXPIRE', key, 2 * KNOWN_FOR)
  end
end
local known = (tonumber(redis.pcall('HLEN', space .. 'requirements')) or 0)
  + (tonumber(redis.pcall('HGET', space .. 'counters', 'requirements_forgotten')) or 0)
local told = mine.written ~= '0' and redis.call('HEXISTS', static, node) == 1
return {'ok', (leads and not told) and 1 or 0, now, known}
