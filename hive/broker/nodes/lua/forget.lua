-- forget: a node that is gone leaves the node table.
--
-- KEYS the lists in which tasks wait that are pinned to it
-- ARGV 1 key prefix   2 node id
-- Keys used: venom:nodes:static | dynamic | versions | epoch; only read: venom:epochs, venom:beats
-- Reply {'unknown'} the table does not have it, {'lives', ms since its last beat}, or
--        {'forgotten', how many tasks are pinned to it}
--
-- Invariant: a node with an epoch stays: it lives, or nobody has brought home what it held. Readers
-- see that it is gone, since the table is another one from here on. What is pinned to it stays.
local space, node = ARGV[1] .. 'venom:', ARGV[2]
local static, dynamic, versions = space .. 'nodes:static', space .. 'nodes:dynamic',
  space .. 'nodes:versions'
local clock = redis.call('TIME')

for _, incarnation in ipairs(redis.call('HKEYS', space .. 'epochs')) do
  if string.match(incarnation, '^(.*)/') == node then
    local beat = tonumber(redis.call('ZSCORE', space .. 'beats', incarnation) or 0)
    return {'lives', clock[1] * 1000 + math.floor(clock[2] / 1000) - beat}
  end
end
local known = redis.call('HDEL', static, node) + redis.call('HDEL', dynamic, node)
  + redis.call('ZREM', versions, node)
if known == 0 then return {'unknown'} end
redis.call('SET', space .. 'nodes:epoch', clock[1] .. '.' .. clock[2], 'KEEPTTL')
local pinned = 0
for _, list in ipairs(KEYS) do
  local length = redis.pcall('LLEN', list)
  if type(length) == 'number' then pinned = pinned + length end
end
return {'forgotten', pinned}
