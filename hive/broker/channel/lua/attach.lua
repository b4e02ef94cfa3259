-- A connection of an incarnation starts to consume: what earlier connections may still send is
-- void, and what they reserved without this process knowing goes home. An incarnation that was
-- taken for dead meanwhile is back: what nobody else has begun is its own again.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 epoch (one more than the last)
--      5 '1' for an incarnation's first attach
--      6 which process it is, JSON: machine, host, dead_after (ms), and more  7 ms without any
--        heartbeat that mean that the broker was away
--      8.. held publish ids, with those that are finished or on their way back
-- Reply {'ok', {ids given back}, {ids that are no longer its own}, 0, or when all that it holds was
--       reserved (ms), anew since it was taken for dead}; {'taken', host} when a living incarnation
--       of this node is on another machine; {'late'}
-- Keeps: after it, the incarnation has reserved nothing but ids that its process holds. One that
--        comes after a later one changes nothing: it does not know what that one's has reserved.
local node, incarnation, t = ARGV[2], ARGV[3], now()
local processes, reserved = P .. 'processes', P .. 'reserved:' .. node
need('HLEN', P .. 'entries')
need('ZCARD', P .. 'beats')
local known = need('HGET', P .. 'epochs', incarnation)
local back = not known and ARGV[5] ~= '1'
if known and (tonumber(known) or 0) > tonumber(ARGV[4]) then return {'late'} end

local function machine_of(process)
  local read = table_of(process or '') or {}
  return read.machine, read.host, tonumber(read.dead_after) or 0
end

local here, _, patience = machine_of(ARGV[6])
for _, other in ipairs(ask('SMEMBERS', P .. 'incarnations:' .. node) or {}) do
  local there, host, allowed = machine_of(keep('HGET', processes, other))
  local beat = redis.call('ZSCORE', P .. 'beats', other)
  if here and there and here ~= there and beat
    and t - tonumber(beat) <= math.max(patience, allowed) then
    return {'taken', tostring(host)}
  end
end

redis.call('SETNX', P .. 'format', FORMAT)
redis.call('HSET', P .. 'epochs', incarnation, ARGV[4])
ask('SADD', P .. 'incarnations:' .. node, incarnation)
keep('HSET', processes, incarnation, ARGV[6])
hear(P, incarnation, t, tonumber(ARGV[7]))

local held, given_back, lost = {}, {}, {}
for i = 8, #ARGV do
  local id = ARGV[i]
  held[id] = true
  if back then
    local reservation = ask('HGET', reserved, id)
    local own = reservation and holder(reservation) == incarnation
    if not own and not take_back(node, incarnation, id) then lost[#lost + 1] = id end
  end
end
if back then end_absences(incarnation, 0) end -- the rest it had taken without learning of it
local reservations = ask('HGETALL', reserved) or {}
for i = 1, #reservations, 2 do
  local id, value = reservations[i], reservations[i + 1]
  if holder(value) == incarnation then
    if not held[id] then
      redis.call('HDEL', reserved, id)
      go_home(id, 0, 0, '')
      given_back[#given_back + 1] = id
    elseif back then
      local rest = string.match(value, '^|%d+(|.*)$', #incarnation + 1) or ''
      redis.call('HSET', reserved, id, incarnation .. '|' .. t .. rest)
    end
  end
end
return {'ok', given_back, lost, back and t or 0}
