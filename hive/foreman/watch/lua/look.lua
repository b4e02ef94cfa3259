-- What the watchdog has to know of all nodes, at one instant: only what is suspicious is told.
-- KEYS none
-- ARGV 1 prefix  2 ms of silence that mean death  3 ms that something may wait where it was placed
--      4 ms after which a run may be too long
-- Reply {now (ms), the newest beat of all (ms, 0: there is none), {silent incarnations...},
--        {nodes with something that waits too long...},
--        {suspects: publish id US incarnation US reserved at (ms) US the incarnation's beat (ms) US
--         1 its incarnation does not know it | 0 it runs long US hard limit that only the worker
--         knows, or ''...}}  US is byte 31
-- Keeps: moves nothing. A key of another type and a row that cannot be read are put aside, and
--        hinder nothing else.
local US, SILENCE, WAIT, LONG = '\31', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local UNREAD = '?' -- an answer to its reserve is still to be read, see incarnation.py
local t, newest, silent, living, names = now(), 0, {}, {}, {}
local beats = need('ZRANGE', P .. 'beats', 0, -1, 'WITHSCORES')
for i = 1, #beats, 2 do
  local incarnation, beat = beats[i], tonumber(beats[i + 1])
  if beat > newest then newest = beat end
  if beat < t - SILENCE then
    silent[#silent + 1] = incarnation
  else
    living[incarnation] = beats[i + 1]
  end
  names[#names + 1] = incarnation
end
local nodes = nodes_of(names)

-- The line of an incarnation's last beat, with what it holds; nil where nothing is known of that.
-- All are read at once, when the first is asked for.
local lines
local function held(incarnation)
  if not lines then
    lines = {}
    local all = ask('HGETALL', P .. 'held') or {}
    for i = 1, #all, 2 do lines[all[i]] = all[i + 1] end
  end
  return lines[incarnation]
end

-- What such a line tells of an id: its hard limit, '' where it has the id alone, else nil. It is
-- searched as it is: to take it to pieces would cost more than all the rest.
local function told(line, id)
  local from, to, before, after = 0, 0, nil, nil
  repeat
    from, to = string.find(line, id, to + 1, true)
    if not from then return nil end
    before, after = string.byte(line, from - 1), string.byte(line, to + 1)
  until (not before or before == 32) and (not after or after == 32 or after == 58)
  return string.match(line, '^:(%S*)', to + 1) or ''
end

local waiting, suspects = {}, {}
for _, node in ipairs(nodes_with('placed', nodes)) do
  local first = ask('ZRANGE', P .. 'placed:' .. node, 0, 0, 'WITHSCORES')
  if first and first[2] and tonumber(first[2]) <= t - WAIT then waiting[#waiting + 1] = node end
end
for _, node in ipairs(nodes_with('reserved', nodes)) do
  local key = P .. 'reserved:' .. node
  local reservations = ask('HGETALL', key) or {}
  for i = 1, #reservations, 2 do
    local id, value = reservations[i], reservations[i + 1]
    local bar = string.find(value, '|', 1, true)
    local at = bar and string.match(value, '^%d+', bar + 1)
    if not at then
      put_aside(key, id .. ' ' .. value, 'it is no reservation')
    else
      local incarnation = string.sub(value, 1, bar - 1)
      local beat = living[incarnation]
      local line = beat and held(incarnation)
      local limit = line and told(line, id)
      local unknown = line and not limit and beat - at > 0 and not told(line, UNREAD)
      if unknown or line and t - at >= LONG then
        suspects[#suspects + 1] = id .. US .. incarnation .. US .. at .. US .. beat .. US
          .. (unknown and '1' or '0') .. US .. (limit or '')
      end
    end
  end
end
return {t, newest, silent, waiting, suspects}
