-- A page of the dead letters, the newest first. Changes nothing.
-- KEYS none
-- ARGV 1 prefix  2 how many of the newest to pass over  3 how many at most
-- Reply publish ids; nil while their order by time is not complete (dead_order.lua makes it so)
local dead, order = P .. 'dead', P .. 'dead:order'
if redis.call('HLEN', dead) ~= ask('ZCARD', order) then return nil end
local page = {}
local found = redis.call('ZREVRANGE', order, ARGV[2], ARGV[2] + ARGV[3] - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  local row = redis.call('HGET', dead, found[i])
  local died = row and tonumber(string.match(row, '^(%d+)|'))
  if not row or (died and died ~= tonumber(found[i + 1])) then return nil end
  page[#page + 1] = found[i]
end
return page
