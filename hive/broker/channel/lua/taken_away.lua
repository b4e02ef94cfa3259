-- Whether a message that was delivered to an incarnation is somebody else's to run now.
-- KEYS none
-- ARGV 1 prefix  2 node  3 incarnation  4 publish id
-- Reply 1 yes, 0 no
-- Keeps: what is not taken away is reserved for it again, where it had gone home meanwhile.
return taken_away(ARGV[2], ARGV[3], ARGV[4]) and 1 or 0
