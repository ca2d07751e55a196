-- What the connection of an epoch has to send, and whether it may write the first of it.
-- KEYS[1]  the device's row
-- KEYS[2]  the device's queue
-- KEYS[3]  what the keys of the device's commands begin with
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the epoch
-- ARGV[3]  at most so many
-- ARGV[4]  in milliseconds: an older command's entry in the due list may be far off
-- Returns  {their ids, what `mark` gives for the first}; without the second where there are none

local ids = waiting(KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3]))
if not ids[1] then
  return {ids}
end
return {ids, mark(KEYS[1], KEYS[2], KEYS[3] .. ids[1], ARGV[2], false, ARGV[4])}
