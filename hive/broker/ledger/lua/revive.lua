-- Send a dead letter again: it goes home as if it had never died; only its history tells of it.
-- KEYS none
-- ARGV 1 prefix  2 publish id
-- Reply 1 sent, 0 it is no dead letter
-- Keeps: it leaves the dead letters and enters its home queue in one step.
local id = ARGV[2]
local value = read_entry(id)
if not value then return 0 end
if redis.call('HDEL', P .. 'dead', id) == 0 then return 0 end
ask('ZREM', P .. 'dead:order', id)
ask('SREM', P .. 'untold', id)
redis.call('DEL', P .. 'sent:' .. id)
keep('HDEL', P .. 'absences', id)
local deaths = unpack_entry(value)
go_home(id, -tonumber(deaths), 0, '')
return 1
