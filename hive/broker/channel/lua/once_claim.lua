-- A delivery asks to be the one run of an idempotent task's key.
-- KEYS none
-- ARGV 1 prefix  2 task  3 key  4 publish id  5 incarnation  6 seconds a claim lives
-- Reply {'done', first result as JSON}; {'yours'}; or, while another delivery is at work with it,
--       {'held', ms since it was claimed}
-- Keeps: one claim at a time. It holds as long as the reservation it was made under: what died, or
--        was given back, holds nothing. The same message delivered again takes its own claim over,
--        since its earlier run is dead or fenced.
local once = P .. 'once:' .. ARGV[2] .. ':' .. ARGV[3]
local result, owner, incarnation, since = unpack(keep('HMGET', once, 'result', 'owner',
  'incarnation', 'since'))
if result then return {'done', result} end
local node = incarnation and string.match(incarnation, '^(.*)/')
if owner and owner ~= ARGV[4] and node then
  local reservation = ask('HGET', P .. 'reserved:' .. node, owner)
  if reservation and holder(reservation) == incarnation then
    return {'held', now() - (tonumber(since) or now())}
  end
end
redis.call('HSET', once, 'owner', ARGV[4], 'incarnation', ARGV[5], 'since', now())
redis.call('EXPIRE', once, ARGV[6])
return {'yours'}
