-- An idempotent task has run to its end: keep its result, unless the key has one.
-- KEYS none
-- ARGV 1 prefix  2 task  3 key  4 result as JSON  5 seconds it lives (0: for ever)
-- Reply the first result of this key as JSON
-- Keeps: the first completion is final, whoever claims the key by now. Done twice it changes
--        nothing.
local once = P .. 'once:' .. ARGV[2] .. ':' .. ARGV[3]
local first = keep('HGET', once, 'result')
if first then return first end
redis.call('DEL', once)
redis.call('HSET', once, 'result', ARGV[4])
if ARGV[5] ~= '0' then redis.call('EXPIRE', once, ARGV[5]) end
return ARGV[4]
