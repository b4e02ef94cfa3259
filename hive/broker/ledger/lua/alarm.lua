-- Raise the alarm of the account, or end it.
-- KEYS none
-- ARGV 1 prefix  2 the alarm as JSON, '' to end it
-- Reply how many fields were new, or removed
if ARGV[2] == '' then return keep('HDEL', P .. 'account', 'alarm') end
return keep('HSET', P .. 'account', 'alarm', ARGV[2])
