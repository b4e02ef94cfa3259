-- Accept one message: write its entry and put its id where it belongs, or do nothing when the id is
-- known already.
-- KEYS none
-- ARGV 1 prefix  2 publish id  3 home queue  4 priority index 0..10  5 task id  6 delay ms (0: now)
--      7 requirements JSON ('' unless home is a requirement queue)  8 weight of the tasks term
--      9 envelope  10 how many may wait in the home queue (0: any number)
--      11 publish id of the message for whose run this is sent, or ''
--      12.. candidates: node, slots, score without the tasks term (-1: preferred)
-- Reply {0} known already; {1, ''} went home or to the delayed set; {1, node} bound to that node;
--      error QUEUEFULL; error FORMAT where this release cannot serve what is stored; error
--      UNREADABLE for what could not be read back
-- Keeps: an accepted id is in exactly one place; a node is bound only while it lives and has a free
--        slot, and the memory that the message demands. What is refused, for whatever reason, has
--        written nothing: first the id is put where it belongs, where another key may be in the
--        way, and then its entry is written. What a run has sent is known until its message is
--        finished, so that a repeated run sends nothing twice, however long it takes.
local id, home, priority = ARGV[2], ARGV[3], ARGV[4]
local parent, sent = ARGV[11], P .. 'sent:' .. ARGV[11]
local entries, t = P .. 'entries', now()
local delay, limit = tonumber(ARGV[6]), tonumber(ARGV[10])
local format = ask('GET', P .. 'format')
if format and format ~= FORMAT then return redis.error_reply('FORMAT ' .. format) end

local function unreadable(what, value)
  return redis.error_reply('UNREADABLE ' .. what .. ' ' .. cjson.encode(string.sub(value, 1, 100)))
end

if id == '' or string.find(id, '^{') or string.find(id, '%c') then
  return unreadable('the publish id', id)
end
if home == '' or string.find(home, '%c') then return unreadable('the queue', home) end
if string.find(ARGV[5], '%c') then return unreadable('the task id', ARGV[5]) end
if not string.find(priority, '^%d%d?$') or tonumber(priority) > 10 then
  return unreadable('the priority index', priority)
end
if not delay then return unreadable('the delay', ARGV[6]) end
if not limit then return unreadable('the limit of its queue', ARGV[10]) end

if need('HEXISTS', entries, id) == 1 or was_finished(id, t)
  or (parent ~= '' and ask('SISMEMBER', sent, id) == 1) then
  -- Without memory it is not counted, but still known.
  redis.pcall('HINCRBY', P .. 'counters', 'duplicates', 1)
  return {0}
end
-- As long as there are fewer messages in all than may wait in one queue, its lists need no count.
if limit > 0 and redis.call('HLEN', entries) >= limit
  and waiting_in(home) + limited_in(home) >= limit then
  return redis.error_reply('QUEUEFULL ' .. ARGV[10] .. ' ' .. home)
end
if ARGV[7] ~= '' then need('HLEN', P .. 'requirements') end

-- Puts the id where it belongs; returns the node to which it is bound, or ''.
local function place()
  if delay > 0 then
    need('ZADD', P .. 'delayed', t + delay, id)
    -- A node that waits until a later due time must learn of this earlier one.
    if redis.call('ZRANGE', P .. 'delayed', 0, 0)[1] == id then wake(home) end
    return ''
  end
  local best, best_score, memory = nil, nil, 0
  if ARGV[7] ~= '' then
    memory = memory_in(ARGV[7])
  elseif #ARGV >= 12 then
    memory = demanded_memory(home, ARGV[9], 1)
  end
  for i = 12, #ARGV, 3 do
    local node, slots = ARGV[i], tonumber(ARGV[i + 1])
    if redis.call('EXISTS', P .. 'incarnations:' .. node) == 1 then
      local reserved = ask('HLEN', P .. 'reserved:' .. node)
      local placed = ask('ZCARD', P .. 'placed:' .. node)
      local busy = reserved and placed and reserved + placed
      if busy and busy < slots and (memory == 0 or free_memory(node) >= memory) then
        local score = tonumber(ARGV[i + 2]) + tonumber(ARGV[8]) * busy / slots
        if not best or score < best_score then best, best_score = node, score end
      end
    end
  end
  if best then
    redis.call('ZADD', P .. 'placed:' .. best, t, id)
    if memory > 0 then book(best, id, memory, t) end
    wake('node:' .. best)
    return best
  end
  local list = queue_list(home, priority)
  if need('LPUSH', list, id) == 1 then keep('SADD', P .. 'queues', list) end
  wake(home)
  return ''
end

local node = place()
if format == false then redis.call('SET', P .. 'format', FORMAT) end
if parent ~= '' and redis.call('HEXISTS', entries, parent) == 1 then
  ask('SADD', sent, id)
  -- One with the parent's task id is its retry, or what replaces it: once that is sent, the parent
  -- need not run again (go_home).
  if ARGV[5] ~= '' and ask('HGET', P .. 'ids', ARGV[5]) == parent then
    ask('SADD', sent, 'successor')
  end
end
redis.call('HSET', entries, id, pack_entry(0, '', home, priority, '', ARGV[5], t, ARGV[9]))
if ARGV[5] ~= '' then ask('HSET', P .. 'ids', ARGV[5], id) end
count('accepted', 1)
if ARGV[7] ~= '' then
  -- The field is what follows 'venom:req:': digest and queue.
  redis.call('HSETNX', P .. 'requirements', string.sub(home, 11), ARGV[7])
  ask('ZREM', P .. 'requirements:idle', string.sub(home, 11))
end
return {1, node}
