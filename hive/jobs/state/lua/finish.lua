-- The job is over: keep its value, tell whoever waits, forget what only a running job needs.
-- ARGV 1 prefix  2 job  3 reduced value (JSON)  4 error or ''
-- Reply 1, or 0 when it had ended before.
local ttl = redis.call('HGET', STATE, 'ttl')
if not ttl or redis.call('HSETNX', STATE, 'ended', now()) == 0 then return 0 end
redis.call('HSET', STATE, 'eof', 1)
redis.call('SET', VALUE, ARGV[3], 'EX', ttl)
if ARGV[4] ~= '' then
  local before = redis.call('HGET', STATE, 'error')
  redis.call('HSET', STATE, 'error', before and before .. ' ' .. ARGV[4] or ARGV[4])
end
redis.call('XADD', OUTCOMES, '*', 'end', 1)
redis.call('DEL', BLOCKS, LEFT, QUEUE, BACK, LEASES, PARTIALS, WAKE, CALLER, LATER, AGAIN, COMING)
keep_alive()
return 1
