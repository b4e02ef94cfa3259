-- Count the channel's messages by where they are, all at one instant.
-- KEYS none
-- ARGV 1 prefix  2.. queues, each with all its priorities
-- Reply {entries, delayed, dead, reserved, completed, failed, waiting in queue 1, in queue 2, ...}
local reserved, seen, reply = 0, {}, {}
for _, incarnation in ipairs(redis.call('HKEYS', P .. 'epochs')) do
  local node = string.match(incarnation, '^(.*)/')
  if node and not seen[node] then
    seen[node] = true
    reserved = reserved + redis.call('HLEN', P .. 'reserved:' .. node)
  end
end
local counters = redis.call('HMGET', P .. 'counters', 'completed', 'failed')
reply[1] = redis.call('HLEN', P .. 'entries')
reply[2] = redis.call('ZCARD', P .. 'delayed')
reply[3] = redis.call('HLEN', P .. 'dead')
reply[4] = reserved
reply[5] = tonumber(counters[1] or 0)
reply[6] = tonumber(counters[2] or 0)
for i = 2, #ARGV do reply[#reply + 1] = waiting_in(ARGV[i]) end
return reply
