-- Raise or end the conservation alarm.
-- KEYS none
-- ARGV 1 prefix  2 the alarm as JSON, '' to end it
if ARGV[2] == '' then return redis.call('HDEL', P .. 'account', 'alarm') end
return redis.call('HSET', P .. 'account', 'alarm', ARGV[2])
