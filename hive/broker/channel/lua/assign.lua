-- Pin a waiting task to a node: it leaves its queue (or another node's list) for that node's list.
-- KEYS none
-- ARGV 1 prefix  2 task id  3 node  4.. all known nodes
-- Reply {'unknown'} {'dead'} {'delayed'} {'running', node} {'offline'} or {'moved', node}
-- Keeps: the pin is a mark in the entry that ends with the node (restore), never a second copy.
local task_id, node = ARGV[2], ARGV[3]
local id = ask('HGET', P .. 'ids', task_id)
local value = id and read_entry(id)
if not value then return {'unknown'} end
if ask('HEXISTS', P .. 'dead', id) == 1 then return {'dead'} end
if ask('ZSCORE', P .. 'delayed', id) then return {'delayed'} end
for i = 4, #ARGV do
  if ask('HEXISTS', P .. 'reserved:' .. ARGV[i], id) == 1 then
    return {'running', ARGV[i]}
  end
end
if redis.call('EXISTS', P .. 'incarnations:' .. node) == 0
  or not ask('ZCARD', P .. 'placed:' .. node) then
  return {'offline'}
end
local _, home, priority = unpack_entry(value)
local found = ask('LREM', queue_list(home, priority), 1, id) or 0
for i = 4, #ARGV do
  if found == 0 then found = ask('ZREM', P .. 'placed:' .. ARGV[i], id) or 0 end
end
if found == 0 then return {'unknown'} end
pin_entry(id, value, node)
redis.call('ZADD', P .. 'placed:' .. node, now(), id)
wake('node:' .. node)
return {'moved', node}
