-- Forget a stored result, unless another was stored since it was read. Runs on the result backend's
-- server.
-- KEYS 1 the result
-- ARGV 1 what was read
-- Reply 1 forgotten, 0 it is another now
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
