-- Forget outcomes that the reader has handed out.
-- ARGV 1 prefix  2 job  3 id of the first entry that stays  4 items that are forgotten, in all
-- Keeps: `trimmed` tells the next reader of the stream how many are gone.
redis.call('XTRIM', OUTCOMES, 'MINID', ARGV[3])
redis.call('HSET', STATE, 'trimmed', ARGV[4])
