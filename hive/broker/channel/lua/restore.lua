-- An incarnation is over, by death or by leaving: all that it held goes home, and with its node's
-- last incarnation all that was placed on the node.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 ms of silence that mean death (0: restore at any rate)
--      5 deaths to add  6 most deaths allowed  7 reason
-- Reply {-1} it is alive after all; {reservations moved, placed moved, ids of the reservations...}
-- Keeps: the epoch is gone in the same step, so the incarnation, should it live, is refused from
--        here on ('fenced'). What was declared with early acknowledgement (marked '|early') is
--        dropped: it was started, and may not run twice.
local node, incarnation, silence = ARGV[2], ARGV[3], tonumber(ARGV[4])
local beat = redis.call('ZSCORE', P .. 'beats', incarnation)
if silence > 0 and beat and now() - tonumber(beat) <= silence then return {-1} end

redis.call('ZREM', P .. 'beats', incarnation)
redis.call('HDEL', P .. 'epochs', incarnation)
redis.call('HDEL', P .. 'held', incarnation)
redis.call('SREM', P .. 'incarnations:' .. node, incarnation)

local reserved, ids = P .. 'reserved:' .. node, {}
local reservations = redis.call('HGETALL', reserved)
for i = 1, #reservations, 2 do
  local id, value = reservations[i], reservations[i + 1]
  if holder(value) == incarnation then
    redis.call('HDEL', reserved, id)
    if string.sub(value, -6) == '|early' then
      local entry = redis.call('HGET', P .. 'entries', id)
      if entry then
        local _, _, _, _, task_id = unpack_entry(entry)
        finish(id, task_id)
        count('dropped', 1)
        count('done', 1)
      end
    else
      go_home(id, tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], node)
    end
    ids[#ids + 1] = id
  end
end
local placed = 0
if redis.call('SCARD', P .. 'incarnations:' .. node) == 0 then
  for _, id in ipairs(redis.call('ZREVRANGE', P .. 'placed:' .. node, 0, -1)) do
    go_home(id, 0, 0, '')
    placed = placed + 1
  end
  redis.call('DEL', P .. 'placed:' .. node, P .. 'wake:node:' .. node)
end
return {#ids, placed, unpack(ids)}
