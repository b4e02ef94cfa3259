-- Where an accepted, unfinished task is, with its entry. Moves nothing.
-- KEYS none
-- ARGV 1 prefix  2 task id
-- Reply nil: not in the channel; else {place, node, ms, reason, publish id, packed entry}
--   place: queued | placed | delayed | reserved | dead.  node: of placed and reserved, else ''.
--   ms: when placed, reserved or dead; of delayed when due; of queued 0.  reason: of dead, else ''.
local id = redis.call('HGET', P .. 'ids', ARGV[2])
local entry = id and redis.call('HGET', P .. 'entries', id)
if not entry then return nil end
local dead = redis.call('HGET', P .. 'dead', id)
if dead then
  local ms, reason = string.match(dead, '^(%d+)|(.*)$')
  return {'dead', '', ms or '0', reason or '', id, entry}
end
local due = redis.call('ZSCORE', P .. 'delayed', id)
if due then return {'delayed', '', due, '', id, entry} end
-- An incarnation that holds something has an epoch; it is taken away in the same step that takes
-- away what a dead or leaving one held.
local nodes = living_nodes()
for _, node in ipairs(nodes_with('reserved', nodes)) do
  local reserved = ask('HGET', P .. 'reserved:' .. node, id)
  if reserved then
    return {'reserved', node, string.match(reserved, '|(%d+)') or '0', '', id, entry}
  end
end
for _, node in ipairs(nodes_with('placed', nodes)) do
  local placed = ask('ZSCORE', P .. 'placed:' .. node, id)
  if placed then return {'placed', node, placed, '', id, entry} end
end
return {'queued', '', '0', '', id, entry}
