-- Shared by what counts as a sign of life of an incarnation: attaching, and a heartbeat.

-- Note that `incarnation` was heard at `t` (ms). After `gap` ms in which nothing was heard of any
-- node it was the broker, or its link, that was away: `venom:heard_since` tells from when on the
-- others may be missed.
local function hear(space, incarnation, t, gap)
  local beats = space .. 'beats'
  local last = redis.call('ZRANGE', beats, -1, -1, 'WITHSCORES')[2]
  if not last or t - tonumber(last) > gap then
    redis.call('SET', space .. 'heard_since', string.format('%.0f', t))
  end
  redis.call('ZADD', beats, t, incarnation)
end
