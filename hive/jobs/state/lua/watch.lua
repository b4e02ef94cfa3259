-- What a reader that waits for the job must know when nothing came for a while.
-- ARGV 1 prefix  2 job
-- Reply {'expired'}  {'ended'}  {'running'}  {'orphan'} nobody will ever run it
--       {'overdue', ms} the deadline passed so long ago, and nothing ended the job
--       {'done'} every item has its outcome
local s = redis.call('HMGET', STATE, 'ttl', 'ended', 'sent', 'deadline', 'reducer', 'eof', 'pushed',
  'done', 'reduce_due')
if not s[1] then return {'expired'} end
if s[2] then return {'ended'} end
if not s[3] and caller_is_gone() then return {'orphan'} end
if s[5] and is_unfinished(s[5]) then return {'running'} end
-- The reduce waits for its retry; with it, and the delay of a message, somebody is at work.
if s[9] and now() < s[9] + 5000 then return {'running'} end
local deadline = tonumber(s[4] or 0)
if deadline > 0 and now() > deadline then return {'overdue', now() - deadline} end
if s[6] and s[7] == s[8] then return {'done'} end
return {'running'}
