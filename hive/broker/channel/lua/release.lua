-- All that is bound to a node that drains, and not started, goes to its home queue; also what was
-- pinned there by an assignment.
-- KEYS none
-- ARGV 1 prefix  2 node
-- Reply how many went home
-- Keeps: an id leaves the node's list and enters its home in one step.
local placed, moved = P .. 'placed:' .. ARGV[2], 0
need('HLEN', P .. 'entries')
for _, id in ipairs(ask('ZREVRANGE', placed, 0, -1) or {}) do
  redis.call('ZREM', placed, id)
  local value = read_entry(id)
  if value then
    local pin = select(4, unpack_entry(value))
    if pin ~= '' then pin_entry(id, value, '') end
    moved = moved + go_home(id, 0, 0, '')
  end
end
return moved
