-- Acknowledge messages that an incarnation holds, or held until nothing was heard of it and nobody
-- has begun since; others are left alone.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation
--      4.. publish id, task id, outcome (the counter to raise: completed, failed, retried, revoked)
-- Reply how many were acknowledged
-- Keeps: only the acknowledgement of the holder, or of the last one, ends an entry.
return acknowledge(ARGV[2], ARGV[3], 4)
