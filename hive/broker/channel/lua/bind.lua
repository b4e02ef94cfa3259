-- Note a queue as bound to an exchange, in kombu's own sets.
-- KEYS the sets
-- ARGV 1 the binding
-- Reply how many sets it was new to
local new = 0
for _, key in ipairs(KEYS) do new = new + redis.call('SADD', key, ARGV[1]) end
return new
