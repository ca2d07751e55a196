-- `submit` with the entry in the due list beside it, at once: where one script may have keys of several slots. Behind
-- `submit.lua`, which is a function here, and `due.lua`.
-- KEYS[4]  the due list
-- ARGV[3]  when the entry is made, Unix milliseconds; empty: now
-- ARGV[17] the entry
-- ARGV[18] it is looked at after so many milliseconds at the latest
-- ARGV[19] the command's deadline in Unix milliseconds; empty: when the entry is made and ARGV[6]
-- ARGV[20] for so many milliseconds it stays where nothing came of it
-- Returns  what `submit` does

if ARGV[3] == '' then
  ARGV[3] = digits(now)
end
local first = tonumber(ARGV[3])
local score = enter(KEYS[4], ARGV[17], first, ARGV[18], ARGV[4], ARGV[19], ARGV[6])
local answer = submit()
local refused = answer[1] == 'expired' or answer[1] == 'away' or answer[1] == 'full'
if refused and redis.call('ZSCORE', KEYS[4], ARGV[17]) == score then
  redis.call('ZADD', KEYS[4], 'XX', digits(first + tonumber(ARGV[20])) .. '.5', ARGV[17])
end
return answer
