-- Call messages that wait because of a rate limit, the oldest first: it is their turn at this node.
-- KEYS none
-- ARGV 1 prefix  2 node  3 its slots  4 name of the task  5 how many at most
--      6.. the queues that the node serves, in their order
-- Reply {how many were called, how many still wait in those queues}
-- Keeps: an id leaves the delayed set and enters the node's list, while that lives and has a free
--        slot, or else its home queue, where it is taken next, in one step. What somebody else
--        called, or what came back by itself, is no longer in the delayed set, and only leaves the
--        index.
local node, most = ARGV[2], tonumber(ARGV[5])
need('HLEN', P .. 'entries')
need('ZCARD', P .. 'delayed')
local placed = P .. 'placed:' .. node
local lives = redis.call('EXISTS', P .. 'incarnations:' .. node) == 1
local running, bound = ask('HLEN', P .. 'reserved:' .. node), ask('ZCARD', placed)
local free = lives and running and bound and tonumber(ARGV[3]) - running - bound or 0
local called, left, looked_at, MOST_LOOKED_AT = {}, 0, 0, 1000
for i = 5, #ARGV do
  local index = limited(i == 5 and 'node:' .. node or ARGV[i], ARGV[4])
  while #called < most and looked_at < MOST_LOOKED_AT do
    local oldest = ask('ZPOPMIN', index)
    local id = oldest and oldest[1]
    if not id then break end
    looked_at = looked_at + 1
    if redis.call('ZREM', P .. 'delayed', id) == 1 then
      called[#called + 1] = id
      local value = read_entry(id)
      local home = value and select(2, unpack_entry(value))
      if home then ask('ZREM', all_limited(home), id) end
    end
  end
  left = left + (ask('ZCARD', index) or 0)
end
-- What goes home is taken next: of several the oldest has to come last.
for i = #called, 1, -1 do
  if i <= free then
    redis.call('ZADD', placed, now() + i, called[i])
    wake('node:' .. node)
  else
    go_home(called[i], 0, 0, '')
  end
end
return {#called, left}
