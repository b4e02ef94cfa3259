-- Take, keep or give up a lease.
-- KEYS none
-- ARGV 1 prefix  2 lease name  3 holder  4 ms it lasts (0: give it up)
--      5 ms that nobody must have held it before the caller takes it; such a stand-in does not
--        prolong it either, so that whoever does not wait gets it next
-- Reply 1 held by the caller | 0 not
-- Keeps: one holder at a time. What is no lease is put aside, and the lease is free.
local key = P .. 'lease:' .. ARGV[2]
local lease, t = keep('HMGET', key, 'holder', 'until'), now()
local holder, ends, mine = lease[1], tonumber(lease[2] or '') or 0, lease[1] == ARGV[3]
if ends > t + 60000 then ends = 0 end -- no lease lasts that long
if ARGV[4] == '0' then
  if mine then redis.call('HDEL', key, 'holder') end
  return 0
end
local patience = tonumber(ARGV[5])
if mine and patience > 0 and t < ends then return 1 end
if (holder and not mine or patience > 0) and t < ends + patience then return 0 end
redis.call('HSET', key, 'holder', ARGV[3], 'until', t + tonumber(ARGV[4]))
return 1
