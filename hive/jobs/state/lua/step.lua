-- A puller's one round trip: commit the lease that it finished and take the next.
-- KEYS lists of queues: the first ARGV[10] are more urgent than the puller's, the others are those
--      that its node serves too
-- ARGV 1 prefix  2 job  3 owner  4 node
--      5 '', 'begin' (leases of this owner are of a run that died), 'help' (the owner is a task
--        that waits for this job), 'helped' (the same, with a lease to commit), or 'recover',
--        'begin again' and 'help again' (a reply was lost, and a lease with it)
--      6 '0' lease nothing more  7 items wanted
--      8 number of the block that the puller still has, or ''
--      9 runs that an item may have  10 number of urgent lists
--      11 lease to commit or ''  12 first  13 n  14 entry  15-18 ok, failed, timeout, cancelled
--      19 us  20 partial or ''
--      21 the owner's run  22 number of the call among those of the run
--      23 the leases that it works on besides, with a blank between two: a lost reply had none of
--         these
-- Reply {'run', lease, block, base, first, length, attempt, block's items or '', us, done,
--        ms to the deadline or -1, plan when asked to begin,
--        what is known of the item when it was retried, or ''}
--       {'moved', first} the keeper has committed up to there: commit the rest
--       {'yield'} there is work, but not for this run
--       {'wait', others wait 0|1} no item is there yet
--       {'linger', others wait 0|1} others hold more than they run
--       {'end'}
--       {'wait'} {'done'} asked for help: nothing can be leased now; all items have their outcomes
--       {'later', ms} go, and come back: an item is due then
--       {'late'} a later call of this run was answered before: nobody waits for this one
-- Keeps: an item has one outcome; a commit without its lease changes nothing.
local EARLY, LATE = 1000, 5000
local owner, mode, urgent = ARGV[3], ARGV[5], tonumber(ARGV[10])
local known = redis.call('HMGET', STATE, 'ttl', 'try:' .. owner)
if not known[1] then return {'end'} end
-- What was sent to a broker that hung, on connections that were given up since, is executed when it
-- goes on, in any order.
if known[2] and ARGV[21] then
  local run, number = string.match(known[2], '^(.*):(%d+)$')
  if run == ARGV[21] and tonumber(ARGV[22]) < tonumber(number) then return {'late'} end
end
local helps = string.sub(mode, 1, 4) == 'help'
local again = mode == 'recover' or mode == 'begin again' or mode == 'help again'
if again and ARGV[21] then
  redis.call('HSET', STATE, 'try:' .. owner, ARGV[21] .. ':' .. ARGV[22])
end
local begins = mode == 'begin' or mode == 'begin again'
if ARGV[11] ~= '' then
  local lease = read_lease(ARGV[11])
  if lease and lease.first ~= tonumber(ARGV[12]) then return {'moved', lease.first} end
  if lease then
    local n = tonumber(ARGV[13])
    redis.call('HDEL', LEASES, lease.id)
    if n > 0 then
      write_outcomes(lease, lease.first, n, ARGV[14], {ARGV[15], ARGV[16], ARGV[17], ARGV[18]},
        ARGV[19], ARGV[20])
    end
    if n < lease.length then
      give_back(lease.block, lease.base, lease.first + n, lease.length - n, lease.attempt,
        lease.attempt - 1)
    end
  end
end
if begins or helps then enrol(owner) end
if begins then
  redis.call('ZREM', COMING, owner)
  -- One that was to come back has come, as another message. By which of them is all the same.
  local come = redis.call('ZRANGEBYSCORE', COMING, '-inf', now() + EARLY, 'LIMIT', 0, 1)[1]
  if come then redis.call('ZREM', COMING, come) end
end
if begins or again then reclaim_all_of(owner, again and 0 or 1, tonumber(ARGV[9]), ARGV[23]) end
check_caller()
local ms_left = check_deadline()
end_due_waits()
local s = redis.call('HMGET', STATE, 'stop', 'eof', 'waiting', 'us', 'done', 'slots', 'chunk',
  'pushed', 'later', 'rows')
local waiting, later = tonumber(s[3]), tonumber(s[9] or 0)

local function leave(reply)
  if (ARGV[23] or '') == '' then dismiss(owner) end
  keep_alive()
  return reply
end

-- Nothing is left to lease now. For each item that is due later a puller comes back, as long as
-- there are pullers: the first to go for the first that is due. One that is long overdue is not
-- coming. A task that helps comes when it likes.
local function leave_for_now()
  if later == 0 or helps then return leave({'end'}) end
  local at = now()
  redis.call('ZREMRANGEBYSCORE', COMING, '-inf', at - LATE)
  local coming = redis.call('ZCARD', COMING)
  local due = redis.call('ZRANGE', LATER, coming, coming, 'WITHSCORES')[2]
  if not due then return leave({'end'}) end
  if ms_left >= 0 then due = math.min(due, at + ms_left) end
  -- One that works in strands leaves several times, and comes back for the first of them.
  local known_due = redis.call('ZSCORE', COMING, owner)
  redis.call('ZADD', COMING, known_due and math.min(known_due, due) or due, owner)
  return leave({'later', math.max(0, due - at)})
end

local function others_wait()
  if #KEYS > 0 and redis.call('EXISTS', unpack(KEYS)) > 0 then return 1 end
  return 0
end

if helps and s[2] and s[8] == s[5] then return leave({'done'}) end
if s[1] then return leave({'end'}) end
local preempted = not begins and urgent > 0
  and redis.call('EXISTS', unpack(KEYS, 1, urgent)) > 0
if ARGV[6] == '0' or preempted then
  if waiting > 0 or not s[2] then return leave({'yield'}) end
  return leave_for_now()
end
if waiting == 0 then
  if helps then return leave({'wait'}) end
  keep_alive()
  if not s[2] then return {'wait', others_wait()} end
  local held = tonumber(s[8]) - tonumber(s[5]) - later
  local running = redis.call('HLEN', LEASES) - tonumber(s[10] or 0)
  if held > running then return {'linger', others_wait()} end
  -- Wake those that linger: by itself their wait ends only at a clock tick of the server, 100 ms.
  wake_pullers(1000)
  return leave_for_now()
end

local want, chunk = tonumber(ARGV[7]), tonumber(s[7])
if chunk > 0 then
  want = chunk
elseif s[2] then
  want = math.min(want, math.ceil(waiting / (2 * tonumber(s[6]))))
end
local list, attempt = BACK, 1
local range = redis.call('LINDEX', BACK, 0)
if not range then
  list = QUEUE
  range = redis.call('LINDEX', QUEUE, 0)
end
local block, base, first, length, tried = string.match(range, '^(%d+):(%d+):(%d+):(%d+):?(%d*)$')
first, length, attempt = tonumber(first), tonumber(length), tonumber(tried) or 1
-- What died once runs item by item: so the item that kills is found, and takes no other with it.
if attempt > 1 then want = 1 end
local retried = length == 1 and redis.call('HGET', AGAIN, first) or ''
want = math.min(want, length)
if want < length then
  local rest = block .. ':' .. base .. ':' .. (first + want) .. ':' .. (length - want)
  if tried ~= '' then rest = rest .. ':' .. tried end
  redis.call('LSET', list, 0, rest)
else
  redis.call('LPOP', list)
end
bump('waiting', -want)
local lease = bump('seq', 1)
redis.call('HSET', LEASES, lease,
  table.concat({block, base, first, want, attempt, owner, ARGV[4]}, ':'))
keep_alive()
local body = ''
if block ~= ARGV[8] then body = redis.call('HGET', BLOCKS, block) end
local plan = ''
if begins then plan = redis.call('HGET', STATE, 'plan') end
return {'run', lease, block, tonumber(base), first, want, attempt, body, tonumber(s[4] or 0),
  tonumber(s[5]), ms_left, plan, retried}
