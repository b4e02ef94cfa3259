-- What has waited too long in the own list of a node, unless it is pinned there, goes back to its
-- home queue.
-- KEYS none
-- ARGV 1 prefix  2 ms that it may wait  3 how many ids to look at, at most  4.. nodes
-- Reply {node, how many of it went home, ...} of the nodes of which some did
-- Keeps: an id leaves the node's list and enters its home in one step.
local until_then, left, reply = now() - tonumber(ARGV[2]), tonumber(ARGV[3]), {}
for i = 4, #ARGV do
  local placed, moved = P .. 'placed:' .. ARGV[i], 0
  local waiting = ask('ZREVRANGEBYSCORE', placed, until_then, '-inf', 'LIMIT', 0, left) or {}
  for _, id in ipairs(waiting) do
    local value = redis.call('HGET', P .. 'entries', id)
    local pin = ''
    if value then pin = select(4, unpack_entry(value)) end
    if pin == '' then
      redis.call('ZREM', placed, id)
      go_home(id, 0, 0, '')
      moved = moved + 1
    end
  end
  left = left - #waiting
  if moved > 0 then
    reply[#reply + 1] = ARGV[i]
    reply[#reply + 1] = moved
  end
end
return reply
