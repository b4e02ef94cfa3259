-- A sign of life from whoever works on the job; '1' as ARGV[3] from its feeder, whose sign lasts
-- ARGV[4] ms.
-- ARGV 1 prefix  2 job  3 '1' feeder  4 ms
-- Reply {status of what will not run or '', done, us, bytes of unfinished blocks}; 'expired' when
--      there is no such job.
local s = redis.call('HMGET', STATE, 'ttl', 'stop', 'done', 'us', 'bytes', 'ended')
if not s[1] then return {'expired', 0, 0, 0} end
if ARGV[3] == '1' and not s[6] then redis.call('SET', CALLER, 1, 'PX', ARGV[4]) end
keep_alive()
return {s[2] or '', tonumber(s[3] or 0), tonumber(s[4] or 0), tonumber(s[5] or 0)}
