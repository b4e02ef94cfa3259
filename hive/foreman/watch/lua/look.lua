-- What the watchdog has to know of all incarnations, at one instant.
-- KEYS none
-- ARGV 1 prefix  2 ms of silence after which a beat counts as missed for good
-- Reply {now (ms), the newest beat of all (ms, 0: there is none), {silent incarnations...}}
-- Keeps: changes nothing, but that a key of another type is put aside.
local t, newest, silent = now(), 0, {}
local oldest = t - tonumber(ARGV[2])
local beats = ask('ZRANGE', P .. 'beats', 0, -1, 'WITHSCORES') or {}
for i = 1, #beats, 2 do
  local beat = tonumber(beats[i + 1])
  if beat > newest then newest = beat end
  if beat < oldest then silent[#silent + 1] = beats[i] end
end
return {t, newest, silent}
