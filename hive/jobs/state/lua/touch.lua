-- A sign of life from a process that works on the job.
-- ARGV 1 prefix  2 job  3 '1' it is the feeder  4 ms for which the feeder's sign lasts
-- Reply {status of what will not run or '', done, us, bytes of unfinished blocks}; the status is
--       'expired' when there is no such job
local s = redis.call('HMGET', STATE, 'ttl', 'stop', 'done', 'us', 'bytes', 'ended')
if not s[1] then return {'expired', 0, 0, 0} end
if ARGV[3] == '1' and not s[6] then hear_caller(ARGV[4]) end
if ARGV[3] ~= '1' and not s[6] then check_caller() end
keep_alive()
return {s[2] or '', tonumber(s[3] or 0), tonumber(s[4] or 0), tonumber(s[5] or 0)}
