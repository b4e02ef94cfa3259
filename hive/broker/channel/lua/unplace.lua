-- What has waited too long in a live node's own list, unless it is pinned there, goes back to its
-- home queue.
-- KEYS none
-- ARGV 1 prefix  2 node  3 ms that it may wait
-- Reply how many went home
-- Keeps: an id leaves the node's list and enters its home in one step.
local placed, moved = P .. 'placed:' .. ARGV[2], 0
local waiting = redis.call('ZREVRANGEBYSCORE', placed, now() - tonumber(ARGV[3]), '-inf', 'LIMIT',
  0, 1000)
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
return moved
