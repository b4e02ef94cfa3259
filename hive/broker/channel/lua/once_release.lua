-- A run of an idempotent task has failed: the key is free for the next.
-- KEYS none
-- ARGV 1 prefix  2 task  3 key  4 publish id  5 incarnation
-- Reply 1 released, 0 it was not this delivery's
-- Keeps: a result stays, and so does the claim of another delivery.
local once = P .. 'once:' .. ARGV[2] .. ':' .. ARGV[3]
local claim = keep('HMGET', once, 'owner', 'incarnation')
if claim[1] ~= ARGV[4] or claim[2] ~= ARGV[5] then return 0 end
return redis.call('DEL', once)
