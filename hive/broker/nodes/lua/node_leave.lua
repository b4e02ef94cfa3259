-- node_leave: an incarnation says goodbye; without another one its node is offline at once.
--
-- KEYS none
-- ARGV 1 key prefix   2 incarnation `<node>/<tag>`   3 node id
-- Keys used: venom:held, venom:nodes:dynamic | versions | version (lines as in beat.lua)
-- Reply 1 when the incarnation was in the table, 0 when not
--
-- Invariant: only the incarnation's own line changes: it is removed where the node has another,
-- else marked as left, so that the node stays known for a day. Nothing of the channel (epochs,
-- beats, reservations) is touched.
local space = ARGV[1] .. 'venom:'
local incarnation, node = ARGV[2], ARGV[3]
local dynamic = space .. 'nodes:dynamic'
local tag = string.match(incarnation, '[^/]*$')

redis.call('HDEL', space .. 'held', incarnation)
local mine, others = nil, {}
for line in string.gmatch(redis.call('HGET', dynamic, node) or '', '[^\n]+') do
  if string.match(line, '^%S+ (%S+)') == tag then mine = line else others[#others + 1] = line end
end
if not mine then return 0 end
if #others == 0 then
  others[1] = string.sub(mine, 1, 1) == '-' and mine or '-' .. mine
end
redis.call('HSET', dynamic, node, table.concat(others, '\n'))
redis.call('ZADD', space .. 'nodes:versions', redis.call('INCR', space .. 'nodes:version'), node)
return 1
