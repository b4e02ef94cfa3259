-- Let reserved messages wait in the delayed set: they cannot start yet, and waiting takes no slot.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 name of the task that is over its rate limit at the node;
--      '' for messages that are not due
--      5.. each publish id, US (byte 31), when it was reserved (ms), US, ms until it is back at the
--      latest; 0, for a rate limit only: in a minute, or more where many wait
-- Reply how many the incarnation held
-- Keeps: what is not, or no longer, this incarnation's is left alone, and so is what it has
--        reserved again since: the call may come late, or twice. An id leaves the reservations and
--        enters the delayed set in one step. Its indices, `venom:limited:…` and
--        `venom:waits:…`, are no places: without them a message comes back only later.
-- Usually call_up.lua comes for it. So that its node may die, and a limit may go, it comes back by
-- itself, too: after so many ms, and so many more for each before it, at most 50 in a second of a
-- queue.
local BACK, EACH = 60000, 20
local reserved, t, moved = P .. 'reserved:' .. ARGV[2], now(), 0
need('HLEN', P .. 'entries')
need('ZCARD', P .. 'delayed')
for i = 5, #ARGV do
  local id, stamp, wait = string.match(ARGV[i], '^([^\31]*)\31(%d+)\31(%d+)$')
  local reservation = ask('HGET', reserved, id)
  if reservation and holder(reservation) == ARGV[3]
    and string.match(reservation, '|(%d+)', #ARGV[3] + 1) == stamp then
    redis.call('HDEL', reserved, id)
    moved = moved + 1
    local value = read_entry(id)
    if value then
      wait = tonumber(wait)
      local _, home, _, pin, _, created = unpack_entry(value)
      if ARGV[4] ~= '' then
        local index = limited(pin == '' and home or 'node:' .. pin, ARGV[4])
        local before = ask('ZCARD', index)
        if before then
          -- Of those that were accepted within one ms, the one postponed first stays the first.
          local rank = string.format('%.3f', created + math.min(before, 999) / 1000)
          redis.call('ZADD', index, rank, id)
          redis.call('EXPIRE', index, 86400)
        end
        local all = all_limited(home)
        local most = BACK + EACH * (ask('ZCARD', all) or 0)
        wait = wait > 0 and math.min(wait, most) or most
        -- It counts as waiting in its queue until then.
        if ask('ZADD', all, t + wait, id) then
          redis.call('ZREMRANGEBYSCORE', all, '-inf', t)
          redis.call('EXPIRE', all, 86400)
        end
      end
      redis.call('ZADD', P .. 'delayed', t + wait, id)
    end
  end
end
return moved
