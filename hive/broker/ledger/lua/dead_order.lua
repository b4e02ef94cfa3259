-- Keep the dead letters' order by time in step with them, a bounded part at a time, and find those
-- that are too many or too old.
-- KEYS none
-- ARGV 1 prefix  2, 3 cursors of the dead letters and of their order ('0' to begin)
--      4 about how many of each to look at  5 how many may stay (0: any number)
--      6 ms for which one may stay (0: for ever)
--      7 rank, the oldest is 0, from which to look for what may not  8 how many ranks to look at
-- Reply {next cursor, next cursor, 1 while the order is not complete, next rank (0: all were looked
--       at), publish ids of what may not stay, the oldest first}
-- Keeps: a release without the order buries and revives beside it. It is complete when both have as
--        many; before, nothing is found. One whose failure is not told yet may stay.
local dead, order = P .. 'dead', P .. 'dead:order'
local buried, ordered = ask('HLEN', dead), ask('ZCARD', order)
if not buried or not ordered then return {'0', '0', 0, 0} end

local part = redis.call('HSCAN', dead, ARGV[2], 'COUNT', ARGV[4])
for i = 1, #part[2], 2 do
  local known = tonumber(redis.call('ZSCORE', order, part[2][i]) or nil)
  local died = tonumber(string.match(part[2][i + 1], '^(%d+)|'))
  if not known or (died and died ~= known) then
    redis.call('ZADD', order, died or now(), part[2][i])
  end
end
local ranks = redis.call('ZSCAN', order, ARGV[3], 'COUNT', ARGV[4])
for i = 1, #ranks[2], 2 do
  if redis.call('HEXISTS', dead, ranks[2][i]) == 0 then redis.call('ZREM', order, ranks[2][i]) end
end
local incomplete = buried ~= redis.call('ZCARD', order)
local reply = {part[1], ranks[1], incomplete and 1 or 0, 0}
if incomplete then return reply end

local most, age, from = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local beyond = most > 0 and buried - most or 0
if age > 0 then beyond = math.max(beyond, redis.call('ZCOUNT', order, '-inf', now() - age)) end
local to = math.min(from + tonumber(ARGV[8]), beyond)
if from >= to then return reply end
if to < beyond then reply[4] = to end
for _, id in ipairs(redis.call('ZRANGE', order, from, to - 1)) do
  if ask('SISMEMBER', P .. 'untold', id) == 0 then reply[#reply + 1] = id end
end
return reply
