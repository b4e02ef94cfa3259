-- Take, keep or give up a lease.
-- KEYS none
-- ARGV 1 prefix  2 lease name  3 holder  4 ms it lasts (0: give it up)
--      5 ms that nobody must have held it before the caller takes it; such a stand-in does not
--        prolong it either, so that whoever does not wait gets it next
-- Reply {1 held by the caller | 0 not, fencing token, holder}
-- Keeps: one holder at a time; each change of holder raises the token.
local key = P .. 'lease:' .. ARGV[2]
local lease = redis.call('HMGET', key, 'holder', 'token')
local holder, token = lease[1], tonumber(lease[2] or 0)
if ARGV[4] == '0' then
  -- The token outlives the holder, so that it only ever rises.
  if holder == ARGV[3] then redis.call('HDEL', key, 'holder') end
  return {0, token, ''}
end
local ends, patience, t = tonumber(redis.call('HGET', key, 'until') or 0), tonumber(ARGV[5] or 0),
  now()
if holder == ARGV[3] and patience > 0 and t < ends then return {1, token, holder} end
if (holder and holder ~= ARGV[3] or patience > 0) and t < ends + patience then
  return {0, token, holder or ''}
end
if holder ~= ARGV[3] then token = token + 1 end
redis.call('HSET', key, 'holder', ARGV[3], 'token', token, 'until', t + tonumber(ARGV[4]))
return {1, token, ARGV[3]}
