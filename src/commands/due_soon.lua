-- Which of some due lists have something due, and how long the others have not.
-- KEYS     the due lists; in a cluster one
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the most milliseconds to be told
-- Returns  {milliseconds in which none of the others comes due, the number of a list, ...}

local wait = tonumber(ARGV[2])
local due = {}
-- Mostly nothing waits anywhere: that is one look at all of them.
if redis.call('EXISTS', unpack(KEYS)) > 0 then
  for number, list in ipairs(KEYS) do
    local first = redis.call('ZRANGE', list, 0, 0, 'WITHSCORES')[2]
    if first and tonumber(first) <= now then
      due[#due + 1] = number
    elseif first then
      wait = math.min(wait, math.floor(tonumber(first) - now))
    end
  end
end
table.insert(due, 1, wait)
return due
