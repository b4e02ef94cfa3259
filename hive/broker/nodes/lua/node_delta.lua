-- node_delta: what changed in the node table since a version, or all of it.
--
-- KEYS none
-- ARGV 1 key prefix   2 epoch of the reader's copy, '' for none   3 version of the reader's copy
-- Keys used (read only): venom:nodes:static | dynamic | versions | version | epoch, venom:format
-- Reply {epoch, version, now in ms, 1 when this is the whole table,
--        {node id, dynamic lines, facts or nil, ...}, stored format or nil}
--        The facts come when they were written after the reader's version.
--
-- Invariant: a reader that applies the reply (after emptying its copy when it is the whole table)
-- has the table as it is at `version`. Another epoch, or a version behind the reader's, is another
-- table: the reader gets all of it. A key of another type, and a number that is none, count as if
-- they were not there.
local space = ARGV[1] .. 'venom:nodes:'
local static, dynamic = space .. 'static', space .. 'dynamic'
local BATCH = 1000 -- unpack is limited by the C stack

local function ask(...)
  local answer = redis.pcall(...)
  return not (type(answer) == 'table' and answer.err) and answer
end

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local epoch = ask('GET', space .. 'epoch') or ''
local version = tonumber(ask('GET', space .. 'version') or '0') or 0
local since = tonumber(ARGV[3])
local whole = epoch ~= ARGV[2] or version < since
if whole then since = 0 end

local rows = {}
local ids = ask('ZRANGEBYSCORE', space .. 'versions', '(' .. since, '+inf') or {}
for first = 1, #ids, BATCH do
  local last = math.min(first + BATCH - 1, #ids)
  local lines = ask('HMGET', dynamic, unpack(ids, first, last)) or {}
  local facts = whole and ask('HMGET', static, unpack(ids, first, last)) or {}
  for k = 1, last - first + 1 do
    local node, line = ids[first + k - 1], lines[k] or false
    local known = facts[k] or false
    if not whole and line
      and (tonumber(string.match(line, '^%S+ %S+ %S+ (%S+)') or '0') or 0) > since then
      known = ask('HGET', static, node)
    end
    rows[#rows + 1] = node
    rows[#rows + 1] = line
    rows[#rows + 1] = known
  end
end
return {epoch, version, now, whole and 1 or 0, rows, ask('GET', ARGV[1] .. 'venom:format')}
