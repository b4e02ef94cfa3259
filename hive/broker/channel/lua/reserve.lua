-- Acknowledge what is done, move what is due, and take as many messages as the node has free slots:
-- one round trip a task.
-- KEYS the queues' lists in the order in which they are served
-- ARGV 1 prefix  2 node  3 incarnation  4 epoch  5 slots
--      6 names of the wake lists to clear when nothing is found, separated by newlines
--      7.. acknowledged: publish id, task id, outcome
-- Reply {'fenced'} declared dead; {'stale'} a newer connection of this incarnation is at work;
--       {'ok', free slots left, ms until the next due entry or 0, (id, home, earlier deliveries
--       that died or are not heard of, revoked 0|1, reserved ms, task id, envelope)...}
-- Keeps: reservations of a node never exceed its slots, nor what they demand its memory; an id is
--        among them before anybody sees it. What demands more than is free stays where it waits, in
--        its place, and holds nothing up that demands less.
--        Once an id is popped nothing may fail, since it would be lost: what cannot be read is put
--        aside, and the rest delivered.
local node, incarnation = ARGV[2], ARGV[3]
local reserved = P .. 'reserved:' .. node
need('HLEN', P .. 'entries')
local epoch = need('HGET', P .. 'epochs', incarnation)
acknowledge(node, incarnation, 7)
if not epoch then return {'fenced'} end
if epoch ~= ARGV[4] then return {'stale'} end

local t = now()
local due = move_due(t, 100)
local busy = ask('HLEN', reserved)
local want = busy and tonumber(ARGV[5]) - busy or 0
local reply = {'ok', want, 0}
local check_absences = want > 0 and redis.call('EXISTS', P .. 'absences') == 1
local check_revoked = want > 0 and redis.call('EXISTS', P .. 'revoked') == 1
local stamp = incarnation .. '|' .. t
local moved, MOST_MOVED = 0, 500

-- An ISO time, as Celery writes an eta, in milliseconds since 1970; nil for another form, which is
-- the worker's to read.
local function milliseconds(text)
  local year, month, day, hour, minute, second, zone =
    string.match(text, '^(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)(.*)$')
  if not tonumber(second) then return nil end
  local sign, ahead_hours, ahead_minutes = string.match(zone, '^([+-])(%d+):(%d+)$')
  if not sign and zone ~= '' and zone ~= 'Z' then return nil end
  local ahead = sign and tonumber(sign .. (ahead_hours * 60 + ahead_minutes)) or 0
  year, month = tonumber(year), tonumber(month)
  -- Years that begin in March have their leap day at the end.
  if month < 3 then year, month = year - 1, month + 12 end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  local ms = math.floor((((days * 24 + hour) * 60 + minute - ahead) * 60 + second) * 1000)
  return ms < 1e15 and ms or nil  -- no calendar has what lies beyond
end

-- The value, where it can be part of a packed row.
local function text(value)
  return type(value) == 'string' and not string.find(value, '%c') and value
end

-- The memory that the node could give; asked for by the first message that demands some.
local spare
-- What was popped and has to stay: of each list its ids in their order, and their scores where it
-- is the node's own.
local staying, MOST_STAYING = {}, 100

-- Whether the node has the memory that a message demands. It has what was kept free for one that
-- was placed there since the moment `score`.
local function has_memory(id, memory, score, popped)
  local kept = score and ask('HGET', P .. 'booked:' .. node, id)
  if kept and string.match(kept, ' (%d+)$') == score then
    redis.call('HDEL', P .. 'booked:' .. node, id)
    return true
  end
  if not spare then spare = free_memory(node, popped) end
  if spare < memory then return false end
  spare = spare - memory
  return true
end

local function leave(id, list, score)
  local ids = staying[list] or {}
  ids[#ids + 1] = id
  ids[#ids + 1] = score
  staying[list] = ids
end

-- Reserve an id that was popped from a list; or from the node's own (''), where it was since
-- `score`, with the ids `popped`.
local function take(id, list, score, popped)
  local value = redis.call('HGET', P .. 'entries', id)
  if not value then
    if string.sub(id, 1, 1) ~= '{' then return end
    -- A plain Celery producer pushed a whole message: make it an entry. What is no message is
    -- put aside.
    local raw = id
    local is_json, message = pcall(cjson.decode, raw)
    local tag = is_json and type(message.properties) == 'table' and message.properties.delivery_tag
    if type(tag) ~= 'string' then
      count('malformed', 1)
      put_aside(list, raw, 'it is no message, and is dropped')
      return
    end
    id = #tag > 0 and #tag <= 200 and text(tag) or string.sub(redis.sha1hex(raw), 1, 24)
    local home, priority = string.match(list, '^(.-)\6\22(%d+)$')
    home = string.sub(home or list, #G + 1)
    -- In Celery's protocol 1 the body has the id, and of all else only this.
    local task_id = type(message.headers) == 'table' and text(message.headers.id)
      or text(message.properties.correlation_id) or ''
    -- kombu writes 0 for a priority that nobody gave, and would serve it first: it is unset here.
    local unset = not priority and message.properties.priority == 0
    priority = unset and '5' or priority or '0'
    value = pack_entry(0, '', home, priority, '', task_id, t, raw)
    redis.call('HSET', P .. 'entries', id, value)
    if task_id ~= '' then ask('HSET', P .. 'ids', task_id, id) end
    count('accepted', 1)
    local eta = type(message.headers) == 'table' and message.headers.eta
    local later = type(eta) == 'string' and milliseconds(eta)
    if later and later > t and ask('ZADD', P .. 'delayed', later, id) then
      -- A worker would hold it in a slot until then.
      if not due or later < tonumber(due) then due = later end
      moved = moved + 1
      return
    end
    if unset then
      let_wait('LPUSH', id, home, priority)
      moved = moved + 1
      return
    end
  end
  local deaths, home, _, _, task_id, _, at = unpack_entry(value)
  if not deaths then
    put_entry_aside(id, value)
    moved = moved + 1
    return
  end
  local revoked = check_revoked and keep('ZSCORE', P .. 'revoked', task_id) and '1' or '0'
  local memory = revoked == '0' and demanded_memory(home, value, at) or 0
  if memory > 0 and not has_memory(id, memory, score, popped) then
    leave(id, list, score)
    return
  end
  redis.call('HSET', reserved, id, memory > 0 and stamp .. promise(memory) or stamp)
  if check_absences then deaths = deaths + begin_elsewhere(id) end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, home, deaths, revoked
  reply[n + 5], reply[n + 6], reply[n + 7] = t, task_id, string.sub(value, at)
  want = want - 1
end

local own = P .. 'placed:' .. node
while want > 0 and #(staying[''] or {}) < 2 * MOST_STAYING do
  local asked = want
  local placed = ask('ZPOPMIN', own, asked) or {}
  for i = 1, #placed, 2 do take(placed[i], '', placed[i + 1], placed) end
  if #placed < 2 * asked then break end
end
local lists = KEYS

-- What the first list that has anything gives, at most `most` ids; nil when all are empty. A key
-- that is no list is passed over.
local function pop(most)
  while #lists > 0 do
    local call = {'LMPOP', #lists}
    for i = 1, #lists do call[i + 2] = lists[i] end
    local n = #call
    call[n + 1], call[n + 2], call[n + 3] = 'RIGHT', 'COUNT', most
    local got = redis.pcall(unpack(call))
    if not got or not got.err then return got end
    local left = {}
    for _, list in ipairs(lists) do
      if ask('LLEN', list) then left[#left + 1] = list end
    end
    if #left == #lists then error(got) end
    lists = left
  end
end

-- Something of this list has to stay. Whatever has the same requirements demands as much, so it is
-- not looked at, in the lists of other priorities neither; what waits for a node may demand less.
local function pass_over(list)
  local home = string.match(list, '^(.-)\6\22') or list
  local is_pin = string.sub(home, #G + 1, #G + 10) == 'venom:pin:'
  if is_pin and #staying[list] < MOST_STAYING then return end
  local left = {}
  for _, other in ipairs(lists) do
    if (string.match(other, '^(.-)\6\22') or other) ~= home then left[#left + 1] = other end
  end
  lists = left
end

while want > 0 and moved < MOST_MOVED do
  local got = pop(want)
  if not got then break end
  for _, id in ipairs(got[2]) do take(id, got[1]) end
  if staying[got[1]] then pass_over(got[1]) end
end
for list, ids in pairs(staying) do
  if list == '' then
    for i = 1, #ids, 2 do redis.call('ZADD', own, ids[i + 1], ids[i]) end
  else
    for i = #ids, 1, -1 do redis.call('RPUSH', list, ids[i]) end
  end
end
if moved >= MOST_MOVED then
  due = t  -- there is more to do: ask again at once
elseif #reply == 3 and want > 0 then
  for list in string.gmatch(ARGV[6], '[^\n]+') do redis.call('DEL', list) end
end
reply[2] = want
if due then reply[3] = math.min(math.max(1, tonumber(due) - t), 1e9) end
return reply
