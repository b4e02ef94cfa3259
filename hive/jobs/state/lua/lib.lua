-- Shared by every script of a job, behind the channel's library. ARGV[2] is the job's id.
-- Keys, all <prefix>venom:job:<id>:<part> and with the job's time to live (seconds, field `ttl`):
--   state     hash: plan (JSON), ttl, slots, chunk, deadline (ms), pushed, waiting, done, ok,
--             failed, timeout, cancelled, us, bytes, seq, moves, eof, sent, stop (status of what
--             will not run), why, error, excuse, reducer (message), ended (ms), trimmed (outcomes),
--             trimmed_to (entry), cut (part of the input never came), leash (ms), silence
--             `ms:looked at`, rounds_of (message), try:<owner> `run:number`, absences (of pullers
--             that nothing was heard of), later (items in it), rows (of them in leases),
--             reduce_again, reduce_due (ms)
--   blocks    hash: block number -> JSON list of items
--   left      hash: block number -> items without an outcome
--   queue     list of `block:base:first:length`, never leased
--   back      list of `block:base:first:length:attempt`, given back
--   leases    hash: lease -> `block:base:first:length:attempt:owner:node`
--   later     sorted set: `block:base:first:attempt:row:node` of an item that waits for its retry
--             -> when it is due (ms); row is 0, or stands for the lease `later:<row>`
--   again     hash: item that was retried -> `runs:retries:arguments`
--   coming    sorted set: puller that went away and comes back for what is due later -> when (ms)
--   outcomes  stream, one entry a commit: first, n and either d (JSON) or r (JSON, the same outcome
--             for all n), or `end`
--   partials  list of JSON [first, partial result, error]
--   value     string: JSON of the reduced value
--   wake      list of tokens that end a wait for items
--   caller    string that lapses when nothing was heard of whoever feeds the job
-- <prefix>venom:pullers is a hash: owner -> its jobs, with a blank between two: a puller has one of
-- its own, and a task all those that it works on while it waits for them.
-- base is the index of a block's first item, first and length are a range of item indexes.
-- Always: pushed = done + waiting + later + items under lease, and every item without an outcome is
-- in exactly one of queue, back, leases, later.
local JOB = P .. 'job:' .. ARGV[2] .. ':'
local STATE, BLOCKS, LEFT, QUEUE, BACK = JOB .. 'state', JOB .. 'blocks', JOB .. 'left',
  JOB .. 'queue', JOB .. 'back'
local LEASES, OUTCOMES, PARTIALS, VALUE = JOB .. 'leases', JOB .. 'outcomes', JOB .. 'partials',
  JOB .. 'value'
local WAKE, CALLER, PULLERS = JOB .. 'wake', JOB .. 'caller', P .. 'pullers'
local LATER, AGAIN, COMING = JOB .. 'later', JOB .. 'again', JOB .. 'coming'

local function bump(field, by) return redis.call('HINCRBY', STATE, field, by) end

-- Lists and hashes that become empty vanish with their time to live, so it is set again after every
-- step that writes.
local function keep_alive()
  local ttl = redis.call('HGET', STATE, 'ttl')
  if not ttl then return end
  for _, name in ipairs({STATE, BLOCKS, LEFT, QUEUE, BACK, LEASES, OUTCOMES, PARTIALS, WAKE, LATER,
    AGAIN, COMING}) do
    redis.call('EXPIRE', name, ttl)
  end
end

-- Leave tokens for pullers that wait, at most one for each. A token carries nothing, and a lost one
-- costs a short wait.
local function wake_pullers(tokens)
  local slots = tonumber(redis.call('HGET', STATE, 'slots') or 1)
  for _ = 1, math.min(tokens, slots - redis.call('LLEN', WAKE)) do
    redis.call('RPUSH', WAKE, '1')
  end
end

-- n items of a block have their outcomes; a block without others is forgotten.
local function settled(block, n)
  bump('done', n)
  if redis.call('HINCRBY', LEFT, block, -n) <= 0 then
    bump('bytes', -redis.call('HSTRLEN', BLOCKS, block))
    redis.call('HDEL', BLOCKS, block)
    redis.call('HDEL', LEFT, block)
  end
end

-- How often an item was retried, which is then forgotten. It is always in a range of its own.
local function retried_runs(first, length)
  local again = length == 1 and redis.call('HGET', AGAIN, first)
  if not again then return 0 end
  redis.call('HDEL', AGAIN, first)
  return tonumber(string.match(again, '^%d+'))
end

-- Items that will not run (again) get their outcome.
local function without_run(block, first, length, status, error, attempts, node)
  attempts = tonumber(attempts) + retried_runs(tonumber(first), tonumber(length))
  redis.call('XADD', OUTCOMES, '*', 'first', first, 'n', length, 'r',
    cjson.encode({status, error, attempts, node}))
  bump(status, length)
  settled(block, length)
end

-- A range without outcomes may be leased again; in a job that was stopped it gets the outcome of
-- that. It was not counted as waiting before.
local function give_back(block, base, first, length, attempt, tried)
  local stop = redis.call('HMGET', STATE, 'stop', 'why')
  if stop[1] then return without_run(block, first, length, stop[1], stop[2] or '', tried, '') end
  redis.call('RPUSH', BACK, block .. ':' .. base .. ':' .. first .. ':' .. length .. ':' .. attempt)
  bump('waiting', length)
  wake_pullers(length)
end

local function read_lease(id)
  local lease = redis.call('HGET', LEASES, id)
  if not lease then return end
  local block, base, first, length, attempt, owner, node =
    string.match(lease, '^(%d+):(%d+):(%d+):(%d+):(%d+):([^:]*):(.*)$')
  return {id = id, block = block, base = base, first = tonumber(first), length = tonumber(length),
    attempt = tonumber(attempt), owner = owner, node = node}
end

-- Of what a puller's message died last, in brackets; '' where nothing tells.
local function last_reason(owner)
  local entry = redis.call('HGET', P .. 'entries', owner)
  local deaths = entry and table_of(history(entry) ~= '' and history(entry) or '[]') or {}
  local reason = (deaths[#deaths] or {})[3]
  return reason and ' (' .. reason .. ')' or ''
end

-- A message begins to hold leases of this job, and ends to.
local function enrol(owner)
  local jobs = redis.call('HGET', PULLERS, owner)
  if not jobs then
    redis.call('HSET', PULLERS, owner, ARGV[2])
  elseif not string.find(' ' .. jobs .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then
    redis.call('HSET', PULLERS, owner, jobs .. ' ' .. ARGV[2])
  end
  redis.call('EXPIRE', PULLERS, 604800)
end

local function dismiss(owner)
  local others = {}
  for job in string.gmatch(redis.call('HGET', PULLERS, owner) or '', '%S+') do
    if job ~= ARGV[2] then table.insert(others, job) end
  end
  if #others > 0 then return redis.call('HSET', PULLERS, owner, table.concat(others, ' ')) end
  redis.call('HDEL', PULLERS, owner)
end

-- The leases that somebody holds.
local function held_leases()
  local held = {}
  for _, id in ipairs(redis.call('HKEYS', LEASES)) do
    if string.sub(id, 1, 6) ~= 'later:' then held[#held + 1] = read_lease(id) end
  end
  return held
end

-- An item waits for its retry, for so many ms. For the scripts of a release that knows no retries
-- it is under lease to nobody, too, so that they run it early, and do not end the job without it.
-- That is told of the first thousand.
local MOST_ROWS = 1000
local function wait_for_retry(lease, item, ms)
  local row = 0
  if redis.call('HLEN', LEASES) < MOST_ROWS then
    row = bump('seq', 1)
    bump('rows', 1)
    redis.call('HSET', LEASES, 'later:' .. row,
      table.concat({lease.block, lease.base, item, 1, lease.attempt - 1, '', lease.node}, ':'))
  end
  redis.call('ZADD', LATER, now() + ms,
    table.concat({lease.block, lease.base, item, lease.attempt, row, lease.node}, ':'))
  bump('later', 1)
end

-- Items that waited for their retry may be leased; in a job that was stopped they get the outcome
-- of that. What such a release has taken meanwhile is its own.
local function end_waits(waits)
  for _, wait in ipairs(waits) do
    local block, base, first, attempt, row = string.match(wait, '^(%d+):(%d+):(%d+):(%d+):(%d+):')
    redis.call('ZREM', LATER, wait)
    bump('later', -1)
    if row ~= '0' then bump('rows', -1) end
    if row == '0' or redis.call('HDEL', LEASES, 'later:' .. row) == 1 then
      give_back(block, base, tonumber(first), 1, attempt, attempt - 1)
    end
  end
end

-- What is due may be leased.
local MOST_AT_ONCE = 1000
local function end_due_waits()
  if redis.call('EXISTS', LATER) == 0 then return end
  end_waits(redis.call('ZRANGEBYSCORE', LATER, '-inf', now(), 'LIMIT', 0, MOST_AT_ONCE))
end

-- Take a lease back: its items are tried again. Where its owner died (`died` is 1) under a single
-- item, and too often, that item is what kills, and fails.
local function reclaim(lease, died, allowed)
  redis.call('HDEL', LEASES, lease.id)
  bump('moves', died)
  if died == 1 and lease.length == 1 and lease.attempt >= allowed then
    local error = 'killed its worker: the process that ran it ended ' .. lease.attempt .. ' times'
      .. last_reason(lease.owner)
    return without_run(lease.block, lease.first, 1, 'failed', error, lease.attempt, lease.node)
  end
  give_back(lease.block, lease.base, lease.first, lease.length, lease.attempt + died,
    lease.attempt + died - 1)
end

-- The leases of an owner's run that is over: it `died` (1), or not (0). A run that went home since
-- nothing was heard of its node is no death, unless there are ten times as many of them. Those in
-- `kept`, with a blank between two, are at work.
local function reclaim_all_of(owner, died, allowed, kept)
  if redis.call('EXISTS', LEASES) == 0 then return 0 end
  kept = ' ' .. (kept or '') .. ' '
  local n, absent = 0, died == 1 and redis.call('HEXISTS', P .. 'absences', owner) == 1
  for _, lease in ipairs(held_leases()) do
    if lease.owner == owner and not string.find(kept, ' ' .. lease.id .. ' ', 1, true) then
      if absent and n == 0 then died = bump('absences', 1) > 10 * allowed and 1 or 0 end
      reclaim(lease, died, allowed)
      n = n + 1
    end
  end
  return n
end

-- Outcomes of n items from `first` on. `counts` holds ok, failed, timeout, cancelled.
local function write_outcomes(lease, first, n, entry, counts, us, partial)
  redis.call('XADD', OUTCOMES, '*', 'first', first, 'n', n, 'd', entry)
  for i, status in ipairs({'ok', 'failed', 'timeout', 'cancelled'}) do
    if counts[i] ~= '0' then bump(status, counts[i]) end
  end
  if partial ~= '' then redis.call('RPUSH', PARTIALS, partial) end
  bump('us', us)
  bump('moves', 1)
  if n == 1 then redis.call('HDEL', AGAIN, first) end
  settled(lease.block, n)
end

-- Nothing more is leased: what waits gets `status` as its outcome, and so does what is given back
-- later.
local function stop_job(status, why)
  if redis.call('HSETNX', STATE, 'stop', status) == 0 then return end
  redis.call('HSET', STATE, 'why', why, 'eof', 1, 'waiting', 0)
  for _, list in ipairs({QUEUE, BACK}) do
    while true do
      local range = redis.call('LPOP', list)
      if not range then break end
      local block, first, length, attempt = string.match(range, '^(%d+):%d+:(%d+):(%d+):?(%d*)$')
      without_run(block, first, length, status, why, tonumber(attempt) and attempt - 1 or 0, '')
    end
  end
  end_waits(redis.call('ZRANGE', LATER, 0, -1))
  wake_pullers(1000)
end

-- The job ends with what was sent, since no more is to be expected, and says why.
local function cut_off(why)
  redis.call('HSET', STATE, 'eof', 1, 'cut', 'silence')
  redis.call('HSETNX', STATE, 'error', why)
end

-- The process that makes the job has told that it lives.
local function hear_caller(ms)
  redis.call('SET', CALLER, 1, 'PX', ms)
  redis.call('HDEL', STATE, 'silence')
end

-- For how long nothing was heard of the job's caller, in ms, once that is too long; else nil. The
-- lapse of its key is no proof: the broker may have been away itself. From then on silence counts
-- while somebody looks, a second for each look at most, up to the leash.
local LONGEST_LOOK = 1000
local function caller_is_gone()
  if redis.call('EXISTS', CALLER) == 1 then return nil end
  local v = redis.call('HMGET', STATE, 'leash', 'silence')
  local leash = tonumber(v[1] or 5000)
  local silence, looked = string.match(v[2] or '', '^(%d+):(%d+)$')
  local at = now()
  silence = (tonumber(silence) or 0)
    + math.max(0, math.min(at - (tonumber(looked) or at), LONGEST_LOOK))
  redis.call('HSET', STATE, 'silence', string.format('%d:%d', silence, at))
  if silence < leash then return nil end
  return silence + leash / 2
end

-- Once the process that feeds the job is gone, the job ends with what was sent.
local function check_caller()
  if redis.call('HEXISTS', STATE, 'eof') == 1 then return end
  local silence = caller_is_gone()
  if not silence then return end
  cut_off(string.format('The process that fed the items is gone, or cut off from the broker: '
    .. 'nothing was heard of it for %d s. The job ended with the %s items that it had sent.',
    silence / 1000, redis.call('HGET', STATE, 'pushed') or '0'))
end

local function check_deadline()
  local deadline = tonumber(redis.call('HGET', STATE, 'deadline') or 0)
  if deadline == 0 then return -1 end
  local left = deadline - now()
  if left <= 0 then stop_job('timeout', 'the job\'s deadline passed first') end
  return left
end
