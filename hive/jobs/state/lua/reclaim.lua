-- What a puller had leased, or a task that worked on the job while it waited for it, may be leased
-- again at once: its process died, or nothing is heard of it.
-- ARGV 1 prefix  2 job  3 owner  4 runs that an item may have
-- Reply: the number of leases that came back.
dismiss(ARGV[3])
local n = reclaim_all_of(ARGV[3], 1, tonumber(ARGV[4]))
keep_alive()
return n
