-- Acknowledge what is done, move what is due, and take as many messages as the node has free slots:
-- one round trip a task.
-- KEYS the queues' lists in the order in which they are served
-- ARGV 1 prefix  2 node  3 incarnation  4 epoch  5 slots
--      6 names of the wake lists to clear when nothing is found, separated by newlines
--      7.. acknowledged: publish id, task id, outcome
-- Reply {'fenced'} declared dead; {'stale'} a newer connection of this incarnation is at work;
--       {'ok', free slots left, ms until the next due entry or 0, (id, home, earlier deliveries
--       that died or are not heard of, revoked 0|1, reserved ms, task id, envelope)...}
-- Keeps: reservations of a node never exceed its slots; an id is among them before anybody sees it.
local node, incarnation = ARGV[2], ARGV[3]
local reserved = P .. 'reserved:' .. node
acknowledge(node, incarnation, 7)
local epoch = redis.call('HGET', P .. 'epochs', incarnation)
if not epoch then return {'fenced'} end
if epoch ~= ARGV[4] then return {'stale'} end

local t = now()
local due = move_due(t, 100)
local want = tonumber(ARGV[5]) - redis.call('HLEN', reserved)
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
  return math.floor((((days * 24 + hour) * 60 + minute - ahead) * 60 + second) * 1000)
end

local function take(id, list)
  local value = redis.call('HGET', P .. 'entries', id)
  if not value then
    if string.sub(id, 1, 1) ~= '{' then return end
    -- A plain Celery producer pushed a whole message: make it an entry. What is no message is
    -- dropped, since an error here would lose all that was popped with it.
    local raw = id
    local is_json, message = pcall(cjson.decode, raw)
    local tag = is_json and type(message.properties) == 'table' and message.properties.delivery_tag
    if type(tag) ~= 'string' then
      count('malformed', 1)
      return
    end
    id = tag
    local home, priority = string.match(list, '^(.-)\6\22(%d+)$')
    home = string.sub(home or list, #G + 1)
    local task_id = type(message.headers) == 'table' and message.headers.id
    if type(task_id) ~= 'string' then task_id = '' end
    -- kombu writes 0 for a priority that nobody gave, and would serve it first: it is unset here.
    local unset = not priority and message.properties.priority == 0
    priority = unset and '5' or priority or '0'
    value = pack_entry(0, '', home, priority, '', task_id, t, raw)
    redis.call('HSET', P .. 'entries', id, value)
    if task_id ~= '' then redis.call('HSET', P .. 'ids', task_id, id) end
    count('accepted', 1)
    local eta = type(message.headers) == 'table' and message.headers.eta
    local later = type(eta) == 'string' and milliseconds(eta)
    if later and later > t then  -- a worker would hold it in a slot until then
      redis.call('ZADD', P .. 'delayed', later, id)
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
  redis.call('HSET', reserved, id, stamp)
  if check_absences then deaths = deaths + begin_elsewhere(id) end
  local revoked = check_revoked and redis.call('ZSCORE', P .. 'revoked', task_id) and '1' or '0'
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = id, home, deaths, revoked
  reply[n + 5], reply[n + 6], reply[n + 7] = t, task_id, string.sub(value, at)
  want = want - 1
end

if want > 0 then
  local placed = redis.call('ZPOPMIN', P .. 'placed:' .. node, want)
  for i = 1, #placed, 2 do take(placed[i], '') end
end
while want > 0 and #KEYS > 0 and moved < MOST_MOVED do
  local call = {'LMPOP', #KEYS}
  for i = 1, #KEYS do call[i + 2] = KEYS[i] end
  local n = #call
  call[n + 1], call[n + 2], call[n + 3] = 'RIGHT', 'COUNT', want
  local got = redis.call(unpack(call))
  if not got then break end
  for _, id in ipairs(got[2]) do take(id, got[1]) end
end
if moved >= MOST_MOVED then
  due = t  -- there is more to do: ask again at once
elseif #reply == 3 and want > 0 then
  for list in string.gmatch(ARGV[6], '[^\n]+') do redis.call('DEL', list) end
end
reply[2] = want
if due then reply[3] = math.max(1, tonumber(due) - t) end
return reply
