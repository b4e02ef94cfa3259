-- Write fields of a job's state.
-- ARGV 1 prefix  2 job  3.. pairs: field, value
-- Reply 1, or 0 when the job has expired.
if redis.call('EXISTS', STATE) == 0 then return 0 end
redis.call('HSET', STATE, unpack(ARGV, 3))
return 1
