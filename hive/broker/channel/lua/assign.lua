-- Pin a waiting task to a node: it leaves its queue (or another node's list) for that node's list.
-- KEYS none
-- ARGV 1 prefix  2 task id  3 node  4.. all known nodes
-- Reply {'unknown'} {'dead'} {'delayed'} {'running', node} {'offline'} or {'moved', node}
-- Keeps: the pin is a mark in the entry that ends with the node (restore), never a second copy.
local task_id, node = ARGV[2], ARGV[3]
local id = redis.call('HGET', P .. 'ids', task_id)
local value = id and redis.call('HGET', P .. 'entries', id)
if not value then return {'unknown'} end
if redis.call('HEXISTS', P .. 'dead', id) == 1 then return {'dead'} end
if redis.call('ZSCORE', P .. 'delayed', id) then return {'delayed'} end
for i = 4, #ARGV do
  if redis.call('HEXISTS', P .. 'reserved:' .. ARGV[i], id) == 1 then
    return {'running', ARGV[i]}
  end
end
if redis.call('EXISTS', P .. 'incarnations:' .. node) == 0 then return {'offline'} end
local _, home, priority = unpack_entry(value)
local found = redis.call('LREM', queue_list(home, priority), 1, id)
for i = 4, #ARGV do
  if found == 0 then found = redis.call('ZREM', P .. 'placed:' .. ARGV[i], id) end
end
if found == 0 then return {'unknown'} end
pin_entry(id, value, node)
redis.call('ZADD', P .. 'placed:' .. node, now(), id)
wake('node:' .. node)
return {'moved', node}
