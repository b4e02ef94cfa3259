-- Shared by every script that touches messages. ARGV[1] is kombu's global key prefix, usually "".
-- An entry is one string, packed so that a waiting task costs one hash field. US is byte 31:
--   deaths US home US priority index US pin US task id US created ms US envelope
-- Right behind the number of deaths stands their history, once there is one: the last ten as JSON,
-- [[ms, node, reason], ...]. Times are integer milliseconds of the broker's clock.
-- pack_entry and unpack_entry here, and entries.py in Python, are all that know this form.
local G = ARGV[1]
local P = G .. 'venom:'

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- What cannot be read is noted for people, once, and hinders nothing else: its key, the head of the
-- row that it is about ('' for the key itself), and why.
local function put_aside(key, head, reason)
  local list, noted = P .. 'aside', cjson.encode({key, string.sub(head, 1, 200), reason})
  if redis.call('TYPE', list).ok ~= 'list' then redis.call('DEL', list) end
  if redis.call('LPOS', list, noted) then return end
  redis.call('LPUSH', list, noted)
  redis.call('LTRIM', list, 0, 99)
end

-- A command about a key that perhaps is of another type than Hive's; it is put aside then, and the
-- answer is nil.
local function ask(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer) end
  local kind = redis.call('TYPE', key).ok
  put_aside(key, '', 'it is a ' .. kind .. ', which Hive does not store there')
end

-- The same about a key without which a step cannot be done: the step fails, and says which key is
-- in the way. It asks so before it changes anything.
local function need(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if ask(command, key, ...) == nil then
    error({err = 'WRONGTYPE The key ' .. key .. ' is a ' .. redis.call('TYPE', key).ok
      .. ', which Hive does not store there: look what it is, then delete it; Hive goes on then'})
  end
end

-- The same about a key that is no message's: what is in the way there is put aside, and replaced.
local function keep(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  local kind, field = redis.call('TYPE', key).ok, ...
  if string.find(answer.err, 'WRONGTYPE', 1, true) then
    put_aside(key, kind == 'string' and redis.call('GETRANGE', key, 0, 199) or '', 'it was a '
      .. kind .. ', which Hive does not store there, and is replaced')
    redis.call('DEL', key)
  elseif kind == 'hash' and (string.find(answer.err, 'not an integer', 1, true)
    or string.find(answer.err, 'overflow', 1, true)) then
    put_aside(key, field .. ' ' .. redis.call('HGET', key, field),
      'it was no number to count on, and begins anew')
    redis.call('HDEL', key, field)
  else
    error(answer)
  end
  return redis.call(command, key, ...)
end

-- The format of what is stored, which this release writes and reads (hive/broker/link/format.py).
-- Whoever writes first notes it; where nobody has, it is the first one.
local FORMAT = '1'

-- What JSON says, where that is an object or a list; nil for all else.
local function table_of(json)
  local is_json, read = pcall(cjson.decode, json)
  return is_json and type(read) == 'table' and read or nil
end

local function pack_entry(deaths, past, home, priority, pin, task_id, created, envelope)
  return table.concat({deaths .. past, home, priority, pin, task_id, created, envelope}, '\31')
end

-- Returns deaths, home, priority, pin, task id, created, and where the envelope begins; nothing for
-- what is no entry.
local function unpack_entry(value)
  local deaths, home, priority, pin, task_id, created, at = string.match(value,
    '^(%d+)[^\31]*\31([^\31]+)\31(%d%d?)\31([^\31]*)\31([^\31]*)\31(%d+)\31()')
  if not at or tonumber(priority) > 10 then return nil end
  return deaths, home, priority, pin, task_id, created, at
end

-- Note an entry that nobody can read. It stays among the entries, in no place, until people settle
-- the account.
local function put_entry_aside(id, value)
  put_aside(P .. 'entries', id .. ' ' .. value, 'it is no entry that Hive can read')
end

-- An id's entry, packed; nil where there is none, or none that can be read.
local function read_entry(id)
  local value = need('HGET', P .. 'entries', id)
  if not value then return nil end
  if unpack_entry(value) then return value end
  put_entry_aside(id, value)
end

local function history(value) return string.match(value, '^%d+([^\31]*)') end

-- Write an entry anew with another pin.
local function pin_entry(id, value, pin)
  local deaths, home, priority, _, task_id, created, at = unpack_entry(value)
  redis.call('HSET', P .. 'entries', id, pack_entry(deaths, history(value), home, priority, pin,
    task_id, created, string.sub(value, at)))
end

local function remember(past, at, node, reason)
  local deaths = table_of(past ~= '' and past or '[]')
  if not deaths then
    put_aside(P .. 'entries', past, 'it is no history of deaths; it begins anew')
    deaths = {}
  end
  if #deaths >= 10 then table.remove(deaths, 1) end
  deaths[#deaths + 1] = {at, node, reason}
  return cjson.encode(deaths)
end

-- The history without the line of that moment and node: it was no death.
local function unremember(past, at, node)
  local deaths = table_of(past ~= '' and past or '[]')
  if not deaths then return past end
  for i = #deaths, 1, -1 do
    local death = deaths[i]
    if type(death) == 'table' and death[1] == at and death[2] == node then
      table.remove(deaths, i)
    end
  end
  return #deaths > 0 and cjson.encode(deaths) or ''
end

local function node_of(incarnation) return string.match(incarnation, '^(.*)/') or incarnation end

local function queue_list(home, priority)
  if priority == '0' then return G .. home end
  return G .. home .. '\6\22' .. priority
end

-- Whether nodes read a list of this name: an older release made others, of priorities that are
-- none.
local function is_served(list)
  local index = string.match(list, '\6\22(.*)$')
  return not index or string.find(index, '^%d%d?$') ~= nil and tonumber(index) <= 10
end

local function waiting_in(queue)
  local n = 0
  for priority = 0, 10 do n = n + (ask('LLEN', queue_list(queue, tostring(priority))) or 0) end
  return n
end

-- A token carries nothing; it ends a blocking wait. 64 are enough for every node that could wait;
-- where none does, they go by themselves.
local function wake(queue)
  local list = P .. 'wake:' .. queue
  if keep('LLEN', list) < 64 and redis.call('LPUSH', list, '1') == 1 then
    redis.call('EXPIRE', list, 60)
  end
end

-- Let an id wait in its queue: pushed by `RPUSH` it is taken next, by `LPUSH` after the others. A
-- list that was empty is noted, so that the account counts it. While another key is in the list's
-- way, the id is delayed again and again.
local function let_wait(push, id, home, priority)
  local list = queue_list(home, priority)
  local length = ask(push, list, id)
  if length == nil then return ask('ZADD', P .. 'delayed', now() + 5000, id) end
  if length == 1 then keep('SADD', P .. 'queues', list) end
  wake(home)
end

local function count(name, by) keep('HINCRBY', P .. 'counters', name, by) end

-- For how long a finished id is known at least, in ms: all pages and messages mean this number. One
-- set has the ids of one BUCKET. Releases of 0.1 read and write the same sets, so BUCKET stays.
local REMEMBERED, BUCKET = 240000, 120000

-- The entry is finished: forget it, remember its id for a while so that a late copy of its
-- publication is a no-op.
local function finish(id, task_id)
  redis.call('HDEL', P .. 'entries', id)
  redis.call('DEL', P .. 'sent:' .. id)
  keep('HDEL', P .. 'absences', id)
  if task_id and task_id ~= '' and ask('HGET', P .. 'ids', task_id) == id then
    redis.call('HDEL', P .. 'ids', task_id)
  end
  local bucket = P .. 'finished:' .. math.floor(now() / BUCKET)
  keep('SADD', bucket, id)
  redis.call('EXPIRE', bucket, REMEMBERED / 1000 + 30)
end

-- Whether an id was finished in the time before `t` for which that is remembered, or a little
-- earlier.
local function was_finished(id, t)
  local bucket = math.floor(t / BUCKET)
  for back = 0, REMEMBERED / BUCKET do
    if keep('SISMEMBER', P .. 'finished:' .. (bucket - back), id) == 1 then return true end
  end
  return false
end

-- Under whom a message went home since nothing was heard of them: incarnation -> ms, negative once
-- another node has begun the message. Such an absence may turn out to be no death, or to be one.
local function read_absences(packed)
  local absences = {}
  for incarnation, at in pairs(table_of(packed or '{}') or {}) do
    if type(at) == 'number' then absences[incarnation] = at end
  end
  return absences
end

local function absences_of(id) return read_absences(keep('HGET', P .. 'absences', id)) end

local function keep_absences(id, absences)
  if next(absences) then
    redis.call('HSET', P .. 'absences', id, cjson.encode(absences))
  else
    redis.call('HDEL', P .. 'absences', id)
  end
end

local function bury(id, reason)
  local t = now()
  redis.call('HSET', P .. 'dead', id, t .. '|' .. reason)
  ask('ZADD', P .. 'dead:order', t, id)
  ask('SADD', P .. 'untold', id)
  count('dead', 1)
end

-- How many MiB of memory requirements (JSON) demand, which must be free where the message runs.
local function memory_in(requirements)
  local demands = string.find(requirements, '"memory_mb"', 1, true) and table_of(requirements)
  return demands and tonumber(demands.memory_mb) or 0
end

local function part(of, name) return type(of) == 'table' and of[name] or nil end

-- The same of an entry: only what waits for its requirements, or for a node, can have any. `at` is
-- where its envelope begins.
local function demanded_memory(home, value, at)
  local kind = string.sub(home, 1, 10)
  if kind == 'venom:req:' then
    return memory_in(ask('HGET', P .. 'requirements', string.sub(home, 11)) or '')
  end
  if kind ~= 'venom:pin:' or not string.find(value, '"memory_mb"', at, true) then return 0 end
  local headers = part(table_of(string.sub(value, at)), 'headers')
  return tonumber(part(part(part(headers, 'hive'), 'req'), 'memory_mb')) or 0
end

-- What a reservation says behind its time about the memory that its run demands and does not use
-- yet: all of it until a heartbeat tells what is left (beat.lua).
local function promise(memory)
  return memory > 0 and string.format('|%.0fMB', memory) or ''
end

-- A message that demands memory is placed: the node keeps so much free for it. The row counts while
-- the message is placed since that moment, so no step that takes it away has to know of it.
local function book(node, id, memory, t)
  local booked = P .. 'booked:' .. node
  keep('HSET', booked, id, string.format('%.0f %.0f', memory, t))
  redis.call('EXPIRE', booked, 60)
end

-- How many MiB of memory a node could still give: what its last beats measured as free, less what
-- was promised to the messages that it runs, or that are placed there, as far as they do not use it
-- yet. 0 where no beat tells. `popped`, {id, score, ...}, still counts as placed.
local function free_memory(node, popped)
  local free
  for line in string.gmatch(ask('HGET', P .. 'nodes:dynamic', node) or '', '[^\n]+') do
    local measured = tonumber(string.match(line, '^%d+ %S+ %S+ %S+ %S+ %S+ (%d+)'))
    if measured and (not free or measured < free) then free = measured end
  end
  if not free then return 0 end
  for _, value in ipairs(ask('HVALS', P .. 'reserved:' .. node) or {}) do
    free = free - (tonumber(string.match(value, '|%d+|(%d+)MB')) or 0)
  end
  local booked, since = P .. 'booked:' .. node, {}
  local rows = ask('HGETALL', booked) or {}
  for i = 1, #(popped or {}), 2 do since[popped[i]] = popped[i + 1] end
  for i = 1, #rows, 2 do
    local memory, at = string.match(rows[i + 1], '^(%d+) (%d+)$')
    if at and (since[rows[i]] or ask('ZSCORE', P .. 'placed:' .. node, rows[i])) == at then
      free = free - memory
    else
      redis.call('HDEL', booked, rows[i])
    end
  end
  return free
end

-- Put an entry back into its home queue, where it is taken next among those of its priority, or
-- into the list of the living node that it is pinned to. `deaths` is added to its number of deaths,
-- of which `reason` and `node` say the cause and the place; with more than `max` it becomes a dead
-- letter instead. `absent` names the incarnation that held it and of which nothing is heard: no
-- death, unless there are ten times as many of them as of deaths. One whose run has sent its
-- successor (its retry, or what replaces it) is finished instead. Returns 1 home, 2 dead letter,
-- 3 finished, 0 no such entry, or none that can be read.
local function go_home(id, deaths, max, reason, node, absent)
  local value = read_entry(id)
  if not value then return 0 end
  local n, home, priority, pin, task_id, created, at = unpack_entry(value)
  if ask('SISMEMBER', P .. 'sent:' .. id, 'successor') == 1 then
    finish(id, task_id)
    count('retried', 1)
    count('done', 1)
    return 3
  end
  local missed, t = 0, now()
  if absent then
    local absences = absences_of(id)
    absences[absent] = t
    for _ in pairs(absences) do missed = missed + 1 end
    keep_absences(id, absences)
  end
  n = tonumber(n) + deaths
  local dies = (deaths ~= 0 or absent) and (n > max or missed > 10 * math.max(1, max))
    and ask('HLEN', P .. 'dead') ~= nil
  local stays = pin ~= '' and not dies and (ask('SCARD', P .. 'incarnations:' .. pin) or 0) > 0
    and ask('ZCARD', P .. 'placed:' .. pin) ~= nil
  if deaths ~= 0 or absent or (pin ~= '' and not stays) then
    local past = history(value)
    if deaths > 0 or absent then past = remember(past, t, node, reason) end
    redis.call('HSET', P .. 'entries', id, pack_entry(n, past, home, priority, stays and pin or '',
      task_id, created, string.sub(value, at)))
  end
  if dies then
    bury(id, reason)
    return 2
  end
  if stays then
    redis.call('ZADD', P .. 'placed:' .. pin, t, id)
    wake('node:' .. pin)
    return 1
  end
  let_wait('RPUSH', id, home, priority)
  return 1
end

-- Take an entry out of where it waits. Returns whether it waited.
local function leave_queue(id, home, priority, pin)
  return ask('LREM', queue_list(home, priority), -1, id) == 1
    or (pin ~= '' and ask('ZREM', P .. 'placed:' .. pin, id) == 1)
end

-- An absent incarnation is there after all, and has an id still: its absence was no death, and the
-- message is its own again, unless another node has begun it meanwhile. Returns whether it is.
local function take_back(node, incarnation, id)
  local absences = absences_of(id)
  local gone_at = absences[incarnation]
  local value = gone_at and read_entry(id)
  if not value then return false end
  absences[incarnation] = nil
  keep_absences(id, absences)
  local deaths, home, priority, pin, task_id, created, at = unpack_entry(value)
  redis.call('HSET', P .. 'entries', id, pack_entry(deaths,
    unremember(history(value), math.abs(gone_at), node), home, priority, pin, task_id, created,
    string.sub(value, at)))
  local reserved = P .. 'reserved:' .. node
  if gone_at < 0 or not ask('HLEN', reserved) or not leave_queue(id, home, priority, pin) then
    return false
  end
  redis.call('HSET', reserved, id, incarnation .. '|' .. now()
    .. promise(demanded_memory(home, value, at)))
  return true
end

-- Another node begins a message: those under whom it went home do not get it back. Returns how many
-- they are.
local function begin_elsewhere(id)
  local absences, n = absences_of(id), 0
  for incarnation, at in pairs(absences) do
    absences[incarnation], n = -math.abs(at), n + 1
  end
  if n > 0 then keep_absences(id, absences) end
  return n
end

-- The absences of a message under the incarnations `over` are over: each was so many `deaths`, 0 or
-- 1.
local function settle_absences(id, absences, over, deaths, max, reason)
  local value = read_entry(id)
  local past = value and history(value)
  for _, incarnation in ipairs(over) do
    if value and deaths == 0 then
      past = unremember(past, math.abs(absences[incarnation]), node_of(incarnation))
    end
    absences[incarnation] = nil
  end
  keep_absences(id, absences)
  if not value then return end
  local n, home, priority, pin, task_id, created, at = unpack_entry(value)
  n = tonumber(n) + deaths * #over
  redis.call('HSET', P .. 'entries', id, pack_entry(n, past, home, priority, pin, task_id, created,
    string.sub(value, at)))
  if deaths > 0 and n > max and ask('HLEN', P .. 'dead')
    and leave_queue(id, home, priority, pin) then
    bury(id, reason)
  end
end

-- Settle the absences of one incarnation, or of all those that are gone since before a time (ms).
-- Returns how many there were, and in the latter case the set of incarnations still absent.
local function end_absences(whose, deaths, max, reason)
  local ended, still, rows = 0, {}, keep('HGETALL', P .. 'absences')
  local name = type(whose) == 'string' and cjson.encode(whose)
  for i = 1, #rows, 2 do
    -- A thousand nodes that come back at once do this each: only rows with the name are read.
    if not name or string.find(rows[i + 1], name, 1, true) then
      local absences, over = read_absences(rows[i + 1]), {}
      for incarnation, at in pairs(absences) do
        if incarnation == whose or not name and math.abs(at) < whose then
          over[#over + 1] = incarnation
        else
          still[incarnation] = true
        end
      end
      if #over > 0 then settle_absences(rows[i], absences, over, deaths, max, reason) end
      ended = ended + #over
    end
  end
  return ended, still
end

-- Delayed entries that are due go home, at most `limit`. Returns when the next one is due, or nil.
local function move_due(t, limit)
  local delayed = P .. 'delayed'
  local next_one = ask('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if not next_one or not next_one[2] or tonumber(next_one[2]) > t then
    return next_one and next_one[2]
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', t, 'LIMIT', 0, limit)) do
    redis.call('ZREM', delayed, id)
    local value = read_entry(id)
    if value then
      local _, home, priority, pin = unpack_entry(value)
      if pin == '' then let_wait('LPUSH', id, home, priority) else go_home(id, 0, 0, '') end
    end
  end
  return redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
end

-- The nodes of incarnations, each once.
local function nodes_of(incarnations)
  local nodes, seen = {}, {}
  for _, incarnation in ipairs(incarnations) do
    local node = string.match(incarnation, '^(.*)/')
    if node and not seen[node] then
      seen[node] = true
      nodes[#nodes + 1] = node
    end
  end
  return nodes
end

-- The nodes with an incarnation that has an epoch: whatever lies at a node lies at one of them.
local function living_nodes() return nodes_of(need('HKEYS', P .. 'epochs')) end

-- Of many nodes those that may have a key of a kind, 'placed' say. A hundred are asked for at once:
-- where there are a thousand nodes, a call for each would cost more than all else.
local function nodes_with(kind, nodes)
  local found = {}
  for first = 1, #nodes, 100 do
    local keys, last = {}, math.min(first + 99, #nodes)
    for i = first, last do keys[#keys + 1] = P .. kind .. ':' .. nodes[i] end
    if redis.call('EXISTS', unpack(keys)) > 0 then
      for i = first, last do found[#found + 1] = nodes[i] end
    end
  end
  return found
end

-- Who holds a reservation, by its value; nil for a value that Hive did not write.
local function holder(reservation) return string.match(reservation, '^(.-)|') end

-- Whether a message is still to be finished: it has an entry until it is acknowledged, and longer
-- only as a dead letter. What a process does for it, a job's puller say, goes on so long.
local function is_unfinished(id)
  return redis.call('HEXISTS', P .. 'entries', id) == 1
    and redis.call('HEXISTS', P .. 'dead', id) == 0
end

-- Whether an id that was delivered to `incarnation` is no longer its to run. One that went home
-- while nothing was heard of the incarnation, and that nobody has begun since, is its own again. A
-- message that the broker itself has lost is run by nobody else, so it is not taken away; nor is
-- one with early acknowledgement, which nobody else ever gets.
local function taken_away(node, incarnation, id)
  local reservation = ask('HGET', P .. 'reserved:' .. node, id)
  if reservation == nil or reservation and holder(reservation) == incarnation then return false end
  if redis.call('HEXISTS', P .. 'entries', id) == 1 then
    return not take_back(node, incarnation, id)
  end
  return was_finished(id, now())
    and ask('SISMEMBER', P .. 'dropped:' .. incarnation, id) ~= 1
end

-- Acknowledge ids that `incarnation` holds, or that went home from it and that nobody has begun.
-- `from` is the index in ARGV of the first (id, task id, outcome) triple.
local function acknowledge(node, incarnation, from)
  local reserved, done = P .. 'reserved:' .. node, 0
  for i = from, #ARGV, 3 do
    local reservation = ask('HGET', reserved, ARGV[i])
    if reservation and holder(reservation) == incarnation
      or take_back(node, incarnation, ARGV[i]) then
      redis.call('HDEL', reserved, ARGV[i])
      finish(ARGV[i], ARGV[i + 1])
      count(ARGV[i + 2], 1)
      done = done + 1
    end
  end
  if done > 0 then count('done', done) end
  return done
end

-- Indices of what is delayed by rate limits: of a home (or the node of a pin) and a task, by age;
-- of a home, by when it is back at the latest. They may have rows too many.
local function limited(home, task) return P .. 'limited:' .. home .. ':' .. task end
local function all_limited(home) return P .. 'waits:' .. home end
local function limited_in(home) return ask('ZCOUNT', all_limited(home), now(), '+inf') or 0 end
