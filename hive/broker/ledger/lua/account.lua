-- Count every message by where it is, all at one instant, beside what the counters say; and leave a
-- mark, by which a broker that lost its last writes is told from one that did not.
-- KEYS none
-- ARGV 1 prefix  2 the highest mark that the caller has seen, '' to leave none
--      3.. queues that are looked into at any rate
-- Reply {mark found, when it was left (ms), mark left now, now (ms), alarm as JSON or '',
--        accepted, done, written off, entries, queued, placed, reserved, delayed, dead}
--   queued: without messages of plain Celery producers, which are no entries yet. Where more than
--   COUNTED wait, they are not looked at one by one: what is beyond the entries counts as such.
-- Keeps: marks only rise. `venom:queues` holds every list in which entries wait; empty lists leave
--        it here.
local COUNTED = 1000
local lists, names = {}, {}
local function add(list)
  if not lists[list] then
    local length = ask('LLEN', list)
    lists[list] = length or 0
    if length then names[#names + 1] = list end
  end
  return lists[list]
end

for _, list in ipairs(keep('SMEMBERS', P .. 'queues')) do
  if is_served(list) and add(list) == 0 and ARGV[2] ~= '' then
    redis.call('SREM', P .. 'queues', list)
  end
end
for i = 3, #ARGV do
  for priority = 0, 10 do add(queue_list(ARGV[i], tostring(priority))) end
end
local queued, placed, reserved, nodes = 0, 0, 0, living_nodes()
for _, length in pairs(lists) do queued = queued + length end
for _, node in ipairs(nodes_with('reserved', nodes)) do
  reserved = reserved + (ask('HLEN', P .. 'reserved:' .. node) or 0)
end
for _, node in ipairs(nodes_with('placed', nodes)) do
  placed = placed + (ask('ZCARD', P .. 'placed:' .. node) or 0)
end
local entries, delayed, dead = need('HLEN', P .. 'entries'), ask('ZCARD', P .. 'delayed') or 0,
  ask('HLEN', P .. 'dead') or 0
local beyond = queued + placed + reserved + delayed + dead - entries
if beyond > 0 and queued > COUNTED then
  queued = queued - beyond
elseif beyond > 0 then
  for _, list in ipairs(names) do
    for _, id in ipairs(ask('LRANGE', list, 0, -1) or {}) do
      if string.sub(id, 1, 1) == '{' then queued = queued - 1 end
    end
  end
end

local t, account = now(), P .. 'account'
-- Until version 0.2 the key was `audit`. Who leaves marks takes it over, also while an older nexus
-- writes it; who only looks does not, since that nexus would miss its marks and raise the alarm.
local old, kept = P .. 'audit', account
if redis.call('TYPE', old).ok == 'hash' then
  local theirs = tonumber(redis.call('HGET', old, 'mark') or 0) or 0
  local ours = tonumber(redis.call('HGET', account, 'mark') or '')
  local newer = not ours or theirs > ours
  if ARGV[2] == '' then
    kept = newer and old or account
  elseif newer then
    redis.call('RENAME', old, account)
  else
    redis.call('DEL', old)
  end
end
local counters = keep('HMGET', P .. 'counters', 'accepted', 'done', 'written_off')
local found = keep('HMGET', kept, 'mark', 'at', 'alarm')
local mark = tonumber(found[1] or 0) or 0
local reply = {mark, tonumber(found[2] or 0) or 0, mark, t, found[3] or ''}
if ARGV[2] ~= '' then
  reply[3] = math.max(mark, tonumber(ARGV[2])) + 1
  redis.call('HSET', account, 'mark', reply[3], 'at', t)
end
for _, n in ipairs({counters[1] or 0, counters[2] or 0, counters[3] or 0, entries, queued, placed,
  reserved, delayed, dead}) do
  reply[#reply + 1] = tonumber(n) or 0
end
return reply
