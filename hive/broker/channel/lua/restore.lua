-- An incarnation is over, by death or by leaving, or nothing is heard of it: all that it held goes
-- home, and with its node's last incarnation all that was placed on the node.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation
--      4 what is known: 'left', 'died' (its process has ended), or ms of silence
--      5 most deaths allowed  6 reason
-- Reply {-1} it is alive after all, or the others have not been heard for long enough;
--       {reservations moved, placed moved, ids of the reservations...}
-- Keeps: the epoch is gone in the same step, so the incarnation, should it live, is refused from
--        here on ('fenced') until it attaches again. What was declared with early acknowledgement
--        (marked '|early') is dropped: it was started, and may not run twice.
--        A silence counts only as far as others were heard in it, and is no death yet.
local node, incarnation, silence = ARGV[2], ARGV[3], tonumber(ARGV[4])
for _, key in ipairs({'entries', 'epochs'}) do need('HLEN', P .. key) end
local beat = need('ZSCORE', P .. 'beats', incarnation)
if silence then
  local own = keep('HGET', P .. 'processes', incarnation)
  silence = math.max(silence, tonumber((table_of(own or '') or {}).dead_after) or 0)
  local since = tonumber(ask('GET', P .. 'heard_since') or 0) or 0
  local newest = tonumber(redis.call('ZRANGE', P .. 'beats', -1, -1, 'WITHSCORES')[2] or 0)
  if beat and newest - math.max(tonumber(beat), since) <= silence then return {-1} end
end

redis.call('ZREM', P .. 'beats', incarnation)
redis.call('HDEL', P .. 'epochs', incarnation)
ask('HDEL', P .. 'held', incarnation)
ask('SREM', P .. 'incarnations:' .. node, incarnation)

local reserved, ids, max = P .. 'reserved:' .. node, {}, tonumber(ARGV[5])
local deaths, absent = ARGV[4] == 'died' and 1 or 0, silence and incarnation
local reservations = ask('HGETALL', reserved) or {}
for i = 1, #reservations, 2 do
  local id, value = reservations[i], reservations[i + 1]
  if holder(value) == incarnation then
    redis.call('HDEL', reserved, id)
    if string.sub(value, -6) == '|early' then
      local entry = read_entry(id)
      if entry then
        local _, _, _, _, task_id = unpack_entry(entry)
        finish(id, task_id)
        count('dropped', 1)
        count('done', 1)
        if absent then
          keep('SADD', P .. 'dropped:' .. incarnation, id)
          redis.call('EXPIRE', P .. 'dropped:' .. incarnation, 3600)
        end
      end
    else
      go_home(id, deaths, max, ARGV[6], node, absent)
    end
    ids[#ids + 1] = id
  end
end
if not silence then
  keep('HDEL', P .. 'processes', incarnation)
  -- What went home while nothing was heard of it.
  if deaths > 0 then end_absences(incarnation, 1, max, ARGV[6]) end
end
local placed = 0
if (ask('SCARD', P .. 'incarnations:' .. node) or 0) == 0 then
  for _, id in ipairs(ask('ZREVRANGE', P .. 'placed:' .. node, 0, -1) or {}) do
    go_home(id, 0, 0, '')
    placed = placed + 1
  end
  redis.call('DEL', P .. 'placed:' .. node, P .. 'wake:node:' .. node)
end
return {#ids, placed, unpack(ids)}
