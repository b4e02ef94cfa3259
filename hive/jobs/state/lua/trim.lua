-- Forget outcomes that the reader has handed out.
-- ARGV 1 prefix  2 job  3 id of the first entry that stays  4 items that are forgotten, in all
--      5 id of the last entry that goes
-- Keeps: `trimmed` tells the next reader of the stream how many are gone, `trimmed_to` a reader in
-- its midst whether it was overtaken. Of two that trim, the one behind changes nothing.
local function order(id)
  local ms, sequence = string.match(id or '', '^(%d+)-(%d+)$')
  return tonumber(ms) or 0, tonumber(sequence) or 0
end

if redis.call('EXISTS', STATE) == 0 then return end
local ms, sequence = order(ARGV[5])
local gone_ms, gone_sequence = order(redis.call('HGET', STATE, 'trimmed_to'))
if ms < gone_ms or ms == gone_ms and sequence <= gone_sequence then return end
redis.call('XTRIM', OUTCOMES, 'MINID', ARGV[3])
redis.call('HSET', STATE, 'trimmed', ARGV[4], 'trimmed_to', ARGV[5])
