-- Add blocks of items, or say that there are no more.
-- ARGV 1 prefix  2 job  3 '1' no more follow, 'cut' the same, but the input was not at its end
--      4 error of the input or ''
--      5 ms for which the feeder counts as alive
--      6 items pushed so far, as the feeder knows: a push whose reply was lost is not done twice
--      7.. pairs: JSON list of items, their number
-- Reply {'' or 'stopped', done, us, bytes of unfinished blocks}; nothing is added to a job that
--      stopped, ended or expired.
-- Keeps: the end of the input, told again since its reply was lost, is answered as it was.
local state = redis.call('HMGET', STATE, 'ttl', 'stop', 'ended', 'cut')
if not state[1] or state[2] or state[3] or state[4] == 'silence' then
  return {'stopped', 0, 0, 0}
end
local n = 0
local repeated = tonumber(redis.call('HGET', STATE, 'pushed')) > tonumber(ARGV[6])
for i = 7, repeated and 0 or #ARGV, 2 do
  local size = tonumber(ARGV[i + 1])
  local block, base = bump('blocks', 1), bump('pushed', size) - size
  redis.call('HSET', BLOCKS, block, ARGV[i])
  redis.call('HSET', LEFT, block, size)
  redis.call('RPUSH', QUEUE, block .. ':' .. base .. ':' .. base .. ':' .. size)
  bump('bytes', #ARGV[i])
  n = n + size
end
bump('waiting', n)
if ARGV[4] ~= '' then redis.call('HSETNX', STATE, 'error', ARGV[4]) end
if ARGV[3] == 'cut' then redis.call('HSET', STATE, 'cut', 1) end
if ARGV[3] ~= '0' then
  redis.call('HSET', STATE, 'eof', 1)
  n = 1000
end
hear_caller(ARGV[5])
wake_pullers(n)
keep_alive()
local progress = redis.call('HMGET', STATE, 'done', 'us', 'bytes')
return {'', tonumber(progress[1] or 0), tonumber(progress[2] or 0), tonumber(progress[3] or 0)}
