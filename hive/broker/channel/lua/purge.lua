-- Remove messages from one queue list, with their entries.
-- KEYS 1 the list
-- ARGV 1 prefix  2 how many at most
-- Reply how many were removed (fewer than asked: the list is empty)
-- Keeps: a purged entry counts as done. One that cannot be read is put aside, and stays.
need('HLEN', P .. 'entries')
local got = ask('RPOP', KEYS[1], tonumber(ARGV[2]))
if not got then return 0 end
for _, id in ipairs(got) do
  local value = read_entry(id)
  if value then
    local _, _, _, _, task_id = unpack_entry(value)
    finish(id, task_id)
    count('purged', 1)
    count('done', 1)
  end
end
return #got
