-- How many MiB of memory nodes could still give, and which requirements that demand some have
-- messages that wait.
-- KEYS none
-- ARGV 1 prefix  2 1 to count what waits, else 0  3.. nodes
-- Reply {of each node MiB...}, {requirements (JSON), how many wait in their queue, ...}
-- Keeps: moves nothing.
local free, waiting = {}, {}
for i = 3, #ARGV do free[#free + 1] = math.floor(free_memory(ARGV[i])) end
local rows = ARGV[2] == '1' and ask('HGETALL', P .. 'requirements') or {}
for i = 1, #rows, 2 do
  local count = memory_in(rows[i + 1]) > 0 and waiting_in('venom:req:' .. rows[i]) or 0
  if count > 0 then
    waiting[#waiting + 1] = rows[i + 1]
    waiting[#waiting + 1] = count
  end
end
return {free, waiting}
