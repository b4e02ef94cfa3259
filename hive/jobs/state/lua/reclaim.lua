-- What a puller had leased may be leased again at once: its process died, or nothing is heard of
-- it.
-- ARGV 1 prefix  2 job  3 owner  4 runs that an item may have  5 '1' it died, '0' it is absent
-- Reply: the number of leases that came back.
redis.call('HDEL', PULLERS, ARGV[3])
local allowed, died = tonumber(ARGV[4]), tonumber(ARGV[5])
-- An absence is no run that died, unless there are ten times as many of them.
if died == 0 and bump('absences', 1) > 10 * allowed then died = 1 end
local n = reclaim_all_of(ARGV[3], died, allowed)
keep_alive()
return n
