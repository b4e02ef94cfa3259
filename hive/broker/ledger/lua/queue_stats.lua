-- Count the channel's messages by where they are, all at one instant.
-- KEYS none
-- ARGV 1 prefix  2.. queues, each with all its priorities
-- Reply {entries, delayed, dead, reserved, completed, failed, waiting in queue 1, in queue 2, ...}
local reserved, reply = 0, {}
for _, node in ipairs(nodes_with('reserved', living_nodes())) do
  reserved = reserved + (ask('HLEN', P .. 'reserved:' .. node) or 0)
end
local counters = ask('HMGET', P .. 'counters', 'completed', 'failed') or {}
reply[1] = redis.call('HLEN', P .. 'entries')
reply[2] = ask('ZCARD', P .. 'delayed') or 0
reply[3] = ask('HLEN', P .. 'dead') or 0
reply[4] = reserved
reply[5] = tonumber(counters[1] or 0) or 0
reply[6] = tonumber(counters[2] or 0) or 0
for i = 2, #ARGV do reply[#reply + 1] = waiting_in(ARGV[i]) end
return reply
