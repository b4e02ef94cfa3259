-- Give reserved messages back to their home queues, or to the dead letters.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 deaths to add (0: it was not started)
--      5 most deaths allowed  6 reason
--      7.. publish ids, each alone or followed by US (byte 31) and when it was reserved (ms)
-- Reply of each that the incarnation held its id, and what became of it:
--       1 it is home  2 it is a dead letter  3 it is finished, since its retry is on its way
-- Keeps: what is not, or no longer, this incarnation's is left alone, and so is what it has
--        reserved again since: the call may come late, or twice. The first id given is the next
--        to be taken.
local reserved, reply = P .. 'reserved:' .. ARGV[2], {}
need('HLEN', P .. 'entries')
for i = #ARGV, 7, -1 do
  local id, stamp = string.match(ARGV[i], '^([^\31]*)\31?(.*)$')
  local reservation = ask('HGET', reserved, id)
  if reservation and holder(reservation) == ARGV[3]
    and (stamp == '' or string.match(reservation, '|(%d+)', #ARGV[3] + 1) == stamp) then
    redis.call('HDEL', reserved, id)
    reply[#reply + 1] = id
    reply[#reply + 1] = go_home(id, tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[2])
  end
end
return reply
