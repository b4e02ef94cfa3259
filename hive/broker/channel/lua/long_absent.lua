-- Who has not come back for long counts as dead, for what it held.
-- KEYS none
-- ARGV 1 prefix  2 ms of absence that count as a death  3 most deaths allowed  4 reason
-- Reply how many deaths were counted
-- Keeps: each absence counts once at most. Of processes, those that live, and those that messages
--        went home from, stay known.
need('HLEN', P .. 'epochs')
local counted, absent = end_absences(now() - tonumber(ARGV[2]), 1, tonumber(ARGV[3]), ARGV[4])
for _, incarnation in ipairs(keep('HKEYS', P .. 'processes')) do
  if not absent[incarnation] and redis.call('HEXISTS', P .. 'epochs', incarnation) == 0 then
    redis.call('HDEL', P .. 'processes', incarnation)
  end
end
return counted
