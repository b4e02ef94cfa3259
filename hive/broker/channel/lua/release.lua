-- All that is bound to a node that drains, and not started, goes to its home queue; also what was
-- pinned there by an assignment.
-- KEYS none
-- ARGV 1 prefix  2 node
-- Reply how many went home
-- Keeps: an id leaves the node's list and enters its home in one step.
local placed, moved = P .. 'placed:' .. ARGV[2], 0
for _, id in ipairs(redis.call('ZREVRANGE', placed, 0, -1)) do
  redis.call('ZREM', placed, id)
  local value = redis.call('HGET', P .. 'entries', id)
  if value then
    local deaths, home, priority, pin, task_id, created, at = unpack_entry(value)
    if pin ~= '' then
      redis.call('HSET', P .. 'entries', id, deaths .. history(value) .. '\31' .. home .. '\31'
        .. priority .. '\31\31' .. task_id
        .. '\31' .. created .. '\31' .. string.sub(value, at))
    end
    moved = moved + go_home(id, 0, 0, '')
  end
end
return moved
