-- Sees that a command is looked at in time: makes its entry in a due list, or brings it forward; never puts it off.
-- KEYS[1]  the due list
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the entry
-- ARGV[3]  at the latest after so many milliseconds
-- ARGV[4]  at the earliest after so many milliseconds
-- ARGV[5]  the command's deadline in Unix milliseconds; empty: now and ARGV[6]
-- ARGV[6]  its time to live in milliseconds
-- Returns  {now, the time it was to be looked at}

return {digits(now), enter(KEYS[1], ARGV[2], now, ARGV[3], ARGV[4], ARGV[5], ARGV[6])}
